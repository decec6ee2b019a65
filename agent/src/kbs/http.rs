// SPDX-License-Identifier: Apache-2.0

//! HTTP to one server: one connection, a time limit and a size limit on everything, and no help from the
//! environment: no proxy, no redirection, no compression, no cookie jar.

use super::error::KbsError;
use super::headers::{retry_after, seconds_between, session_cookie, text};
use super::tls;
use crate::config::{Anchors, ServerUrl, Timeouts};
use kbs_protocol::message::ATTESTATION_LIMIT;
use kbs_protocol::refusal::Step;
use reqwest::blocking::{Client, ClientBuilder, Response};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, DATE, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use std::error::Error;
use std::io::{self, Read as _};
use std::time::{Duration, Instant, SystemTime};

/// One server and the connection kept to it.
pub(super) struct Http {
    pub(super) server: ServerUrl,
    client: Client,
    request_timeout: Duration,
}

/// One request. With a body it is a POST of JSON, otherwise a GET.
pub(super) struct Call<'c> {
    pub(super) step: Step,
    pub(super) path: &'c str,
    pub(super) body: Option<Vec<u8>>,
    pub(super) credential: Option<Credential<'c>>,
}

/// What names the session or the node to the server.
pub(super) enum Credential<'c> {
    /// `name=value`, as the server gave it.
    Cookie(&'c str),
    /// The attestation token.
    Bearer(&'c str),
}

/// One answer, read to its end.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// `name=value` of the session cookie.
    pub(super) cookie: Option<String>,
    /// The server's clock minus ours, in seconds.
    pub(super) clock_skew: Option<i64>,
    /// How long the server asks us to stay away.
    pub(super) retry_after: Option<Duration>,
}

impl Http {
    pub(super) fn new(
        server: &ServerUrl,
        anchors: &Anchors,
        timeouts: &Timeouts,
    ) -> Result<Self, KbsError> {
        let setup = |why: String| KbsError::Setup {
            server: server.clone(),
            why,
        };
        let client = client(anchors, timeouts.connect, timeouts.request)
            .map_err(|error| setup(error.to_string()))?
            .https_only(server.is_https())
            .build()
            .map_err(|error| setup(innermost(&error)))?;
        Ok(Self {
            server: server.clone(),
            client,
            request_timeout: timeouts.request,
        })
    }

    /// Sends one request and reads its answer. Any status but a redirection is an answer.
    pub(super) fn send(&self, call: Call<'_>, until: Option<Instant>) -> Result<Answer, KbsError> {
        let started = Instant::now();
        let limit = time_limit(self.request_timeout, started, until);
        let url = self.server.join(call.path);
        let mut request = match call.body {
            Some(body) => self
                .client
                .post(url)
                .header(CONTENT_TYPE, "application/json")
                .body(body),
            None => self.client.get(url),
        };
        request = match call.credential {
            Some(Credential::Cookie(pair)) => request.header(COOKIE, pair),
            Some(Credential::Bearer(token)) => {
                request.header(AUTHORIZATION, format!("Bearer {token}"))
            }
            None => request,
        };
        let mut response = request
            .timeout(limit)
            .send()
            .map_err(|error| self.failure(call.step, limit, &error))?;

        let status = response.status();
        if status.is_redirection() {
            return Err(KbsError::Redirect {
                server: self.server.clone(),
                step: call.step,
                location: text(response.headers(), LOCATION).unwrap_or_default(),
            });
        }
        let body = self.read_body(&mut response, call.step, limit)?;
        let headers = response.headers();
        let now = SystemTime::now();
        let date = text(headers, DATE).and_then(|date| httpdate::parse_http_date(&date).ok());
        Ok(Answer {
            status: status.as_u16(),
            body,
            cookie: session_cookie(headers),
            clock_skew: date.map(|date| seconds_between(now, date)),
            retry_after: text(headers, RETRY_AFTER)
                .and_then(|value| retry_after(&value, date.unwrap_or(now))),
        })
    }

    /// The request's time limit covers the body too, however slowly it drips.
    fn read_body(
        &self,
        response: &mut Response,
        step: Step,
        limit: Duration,
    ) -> Result<Vec<u8>, KbsError> {
        let server = || self.server.clone();
        let mut body = Vec::new();
        let mut piece = [0; 8192];
        loop {
            let length = match response.read(&mut piece) {
                Ok(0) => return Ok(body),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_timeout(&error) => {
                    return Err(KbsError::Timeout {
                        server: server(),
                        step,
                        after: limit,
                    });
                }
                Err(error) => {
                    return Err(KbsError::Cut {
                        server: server(),
                        step,
                        why: innermost(&error),
                    });
                }
            };
            body.extend_from_slice(piece.get(..length).unwrap_or_default());
            if body.len() > BODY_LIMIT {
                return Err(KbsError::TooLarge {
                    server: server(),
                    step,
                    limit: BODY_LIMIT,
                });
            }
        }
    }

    fn failure(&self, step: Step, limit: Duration, error: &reqwest::Error) -> KbsError {
        let server = self.server.clone();
        if let Some(error) = find::<rustls::Error>(error) {
            return KbsError::Tls {
                server,
                problem: error.into(),
            };
        }
        if error.is_builder() {
            return KbsError::Setup {
                server,
                why: innermost(error),
            };
        }
        let why = innermost(error);
        if error.is_dns() {
            KbsError::Dns { server, why }
        } else if error.is_connect() {
            KbsError::Connect { server, why }
        } else if error.is_timeout() {
            KbsError::Timeout {
                server,
                step,
                after: limit,
            }
        } else {
            KbsError::NoAnswer { server, step, why }
        }
    }
}

/// What every client of ours has: no help from the environment.
fn client(
    anchors: &Anchors,
    connect: Duration,
    request: Duration,
) -> Result<ClientBuilder, rustls::Error> {
    Ok(Client::builder()
        // Always, also for plain http: without it the library looks for the machine's certificates.
        .tls_backend_preconfigured(tls::client_config(anchors)?)
        .http1_only()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .tcp_nodelay(true)
        .connect_timeout(connect)
        .timeout(request)
        // The quote between two requests may take seconds; the connection waits for it.
        .pool_idle_timeout(None)
        .pool_max_idle_per_host(1)
        .user_agent(USER_AGENT))
}

/// A client for a service on this machine's own link, which trusts no `https` server.
pub(crate) fn plain_client() -> Result<Client, String> {
    client(&Anchors::default(), LINK_CONNECT, LINK_REQUEST)
        .map_err(|error| error.to_string())?
        .build()
        .map_err(|error| innermost(&error))
}

/// The request's own time limit, or what is left of the deadline. Not `clamp`, which panics when somebody
/// configures a limit below [`SHORTEST`].
fn time_limit(request: Duration, now: Instant, until: Option<Instant>) -> Duration {
    until.map_or(request, |until| {
        until
            .saturating_duration_since(now)
            .max(SHORTEST)
            .min(request)
    })
}

/// The errors below an error. An [`io::Error`] hides the one it carries from `source`.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| below(*error))
}

fn below<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    let Some(io) = error.downcast_ref::<io::Error>() else {
        return error.source();
    };
    let inner: &(dyn Error + 'static) = io.get_ref()?;
    Some(inner)
}

fn find<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn is_timeout(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
        || find::<reqwest::Error>(error).is_some_and(reqwest::Error::is_timeout)
}

/// The last cause says what happened; those above it say where in the library. rustls adds the address of
/// its manual, which helps nobody at a console.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let text = causes(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default();
    text.split(": https://docs.rs/")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// What an answer may weigh: as much as the server's own limit for requests, and what a JWE adds.
const BODY_LIMIT: usize = ATTESTATION_LIMIT;
/// A request that starts at its deadline still gets a moment, so that its error is the true one.
const SHORTEST: Duration = Duration::from_millis(10);
/// What is on the link answers at once, or is not there.
const LINK_CONNECT: Duration = Duration::from_secs(5);
const LINK_REQUEST: Duration = Duration::from_secs(15);
const USER_AGENT: &str = concat!("trustee-agent/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::{SHORTEST, time_limit};
    use std::time::{Duration, Instant};

    #[test]
    fn a_deadline_shortens_a_request_and_no_configuration_makes_it_panic() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let limit = |request, left| time_limit(request, now, now.checked_add(left));
        assert_eq!(time_limit(minute, now, None), minute);
        assert_eq!(limit(minute, Duration::from_secs(3600)), minute);
        assert_eq!(limit(minute, Duration::from_secs(5)).as_secs(), 5);
        assert_eq!(limit(minute, Duration::ZERO), SHORTEST);
        let tiny = Duration::from_millis(1);
        assert!(tiny < SHORTEST);
        assert_eq!(limit(tiny, minute), tiny);
    }
}
