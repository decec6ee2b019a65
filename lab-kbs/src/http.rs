// SPDX-License-Identifier: Apache-2.0

//! One HTTP exchange: reads the request within Trustee's limits, lets the fault knobs interfere, hands it
//! to the router on a thread of its own, and writes the answer. Called by the server for each request.

use crate::fault::{Fault, Step};
use crate::router;
use crate::server::{Seen, Shared};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, header};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A request, read completely.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) cookie: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// The token of an `Authorization: Bearer` header (RFC 6750 section 2.1).
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.authorization.as_deref()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
    }
}

/// An answer, not yet written.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) cookie: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Default for Reply {
    /// 200 without a body.
    fn default() -> Self {
        Self {
            status: 200,
            content_type: None,
            cookie: None,
            body: Vec::new(),
        }
    }
}

impl Reply {
    /// 200 with a JSON body.
    pub(crate) fn json(body: impl Into<Vec<u8>>) -> Self {
        Self {
            content_type: Some("application/json"),
            body: body.into(),
            ..Self::default()
        }
    }

    /// What the web framework below Trustee says by itself: never JSON.
    pub(crate) fn text(status: u16, text: &str) -> Self {
        let content_type = Some("text/plain; charset=utf-8");
        Self {
            status,
            content_type,
            cookie: None,
            body: text.as_bytes().to_vec(),
        }
    }
}

/// The connection is to be closed without (the rest of) an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection was dropped on purpose")]
pub(crate) struct Dropped;

/// Answers one request. `Err` closes the connection.
pub(crate) async fn exchange(
    shared: Arc<Shared>,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Response<LabBody>, Dropped> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let step = Step::of(method.as_str(), &path);
    let seen = Seen {
        connection,
        method: method.to_string(),
        path,
        status: 0,
        cause: None,
    };

    if let Some(delay) = shared.faults.delay(step) {
        tokio::time::sleep(delay).await;
    }
    let interruption = shared.faults.interruption(step);
    if matches!(interruption, Some(Fault::DropBefore(_))) {
        shared.saw(Seen {
            cause: Some("fault: drop-before".to_owned()),
            ..seen
        });
        return Err(Dropped);
    }
    let (reply, cause) = match interruption.clone() {
        Some(Fault::Error(_, error)) => (error.reply(), Some("fault: error".to_owned())),
        Some(Fault::Status(_, status)) => (
            Reply::text(status, "injected, and not JSON"),
            Some("fault: status".to_owned()),
        ),
        _ => process(&shared, request).await,
    };
    shared.saw(Seen {
        status: reply.status,
        cause,
        ..seen
    });
    let body = match interruption {
        Some(Fault::HugeBody(_, bytes)) => LabBody::Blanks { left: bytes },
        Some(Fault::DropMidBody(_)) => LabBody::cut(reply.body),
        _ => LabBody::Whole(Some(reply.body.into())),
    };
    let mut response = Response::builder().status(reply.status);
    if let Some(content_type) = reply.content_type {
        response = response.header(header::CONTENT_TYPE, content_type);
    }
    if let Some(cookie) = reply.cookie {
        response = response.header(header::SET_COOKIE, cookie);
    }
    response.body(body).map_err(|_| Dropped)
}

async fn process(shared: &Arc<Shared>, request: Request<Incoming>) -> (Reply, Option<String>) {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes().to_vec(),
        Err(_) => return (Reply::text(413, "the payload is too large"), None),
    };
    let joined = |name| {
        let values = head
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let values: Vec<_> = values.collect();
        (!values.is_empty()).then(|| values.join("; "))
    };
    let call = Call {
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        cookie: joined(header::COOKIE),
        authorization: joined(header::AUTHORIZATION),
        method: head.method,
        body,
    };
    let on_thread = shared.clone();
    // Signatures and policies take milliseconds: not on the threads that serve connections.
    match tokio::task::spawn_blocking(move || router::answer(&on_thread, &call)).await {
        Ok(answer) => answer,
        Err(_) => (
            Reply::text(500, ""),
            Some("the handler ended early".to_owned()),
        ),
    }
}

/// An answer's body: whole, cut in the middle, or very long.
pub(crate) enum LabBody {
    Whole(Option<Bytes>),
    Cut {
        first: Option<Bytes>,
        announced: u64,
        pause: Pin<Box<tokio::time::Sleep>>,
    },
    Blanks {
        left: u64,
    },
}

impl LabBody {
    fn cut(body: Vec<u8>) -> Self {
        let announced = u64::try_from(body.len()).unwrap_or(u64::MAX).max(2);
        let half = body.len().div_euclid(2);
        let first = Bytes::from(body).slice(..half);
        // Long enough for the first half to leave before the connection goes.
        let pause = Box::pin(tokio::time::sleep(Duration::from_millis(50)));
        Self::Cut {
            first: Some(first),
            announced,
            pause,
        }
    }
}

impl Body for LabBody {
    type Data = Bytes;
    type Error = Dropped;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Dropped>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Cut { first, pause, .. } => match first.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => pause.as_mut().poll(context).map(|()| Some(Err(Dropped))),
            },
            Self::Blanks { left: 0 } => Poll::Ready(None),
            Self::Blanks { left } => {
                let length = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(BLANKS.len());
                *left = left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
                Poll::Ready(Some(Ok(Frame::data(
                    Bytes::from_static(BLANKS).slice(..length),
                ))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None) | Self::Blanks { left: 0 })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => {
                u64::try_from(bytes.as_ref().map_or(0, Bytes::len)).unwrap_or(u64::MAX)
            }
            Self::Cut { announced, .. } => *announced,
            Self::Blanks { left } => *left,
        })
    }
}

/// Trustee's default for `payload_request_size`.
const BODY_LIMIT: usize = 2 * 1024 * 1024;
const BLANKS: &[u8] = &[b' '; 16 * 1024];
