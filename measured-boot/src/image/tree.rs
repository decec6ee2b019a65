// SPDX-License-Identifier: Apache-2.0

//! The files of all layers so far, as a container engine would have unpacked them: what hides what, and where
//! symbolic links lead. Kept are files that may matter, and symbolic links.

use super::at_most;
use super::content::Content;
use crate::error::Error;
use std::collections::BTreeMap;

#[derive(Clone)]
pub(super) enum Node {
    File(Content),
    /// The target of a symbolic link.
    Link(String),
}

/// Two views, because what a layer hides is hidden in the layers below and never in itself.
#[derive(Default)]
pub(super) struct Tree {
    lower: BTreeMap<String, Node>,
    upper: BTreeMap<String, Node>,
    bytes: usize,
    /// The parent that was resolved last, and what it was resolved to: entries come in the order of directories.
    last: Option<(String, String)>,
}

impl Tree {
    pub(super) fn begin_layer(&mut self) {
        self.last = None;
    }

    pub(super) fn end_layer(&mut self) {
        self.lower.append(&mut self.upper);
    }

    /// Puts something at a path, in place of whatever was there and below. `None`: something that does not matter.
    pub(super) fn put(&mut self, path: &str, node: Option<Node>) -> Result<(), Error> {
        let path = self.place(path);
        self.remove_all(&path);
        if let Some(node) = node {
            if matches!(node, Node::Link(_)) {
                self.last = None;
                self.bytes = self.bytes.saturating_add(path.len()).saturating_add(NODE);
                at_most("bytes of symbolic links", self.bytes, MAX_BYTES)?;
            }
            self.upper.insert(path, node);
        }
        Ok(())
    }

    /// What is at a path, for a hard link to it.
    pub(super) fn get(&mut self, path: &str) -> Option<Node> {
        let path = self.place(path);
        self.upper
            .get(&path)
            .or_else(|| self.lower.get(&path))
            .cloned()
    }

    /// A directory replaces a file or a link, and nothing below it.
    pub(super) fn directory(&mut self, path: &str) {
        let path = self.place(path);
        let removed = [self.lower.remove(&path), self.upper.remove(&path)];
        if removed.iter().any(Option::is_some) {
            self.last = None;
        }
    }

    /// Hides a name of the layers below.
    pub(super) fn hide(&mut self, parent: &str, name: &str) {
        let path = match parent {
            "" => name.to_owned(),
            parent => format!("{parent}/{name}"),
        };
        let path = self.place(&path);
        self.lower.remove(&path);
        remove_below(&mut self.lower, &path);
        self.last = None;
    }

    /// Hides everything of the layers below in this directory.
    pub(super) fn hide_below(&mut self, directory: &str) {
        let directory = self.resolve(directory);
        match directory.is_empty() {
            true => self.lower.clear(),
            false => remove_below(&mut self.lower, &directory),
        }
        self.last = None;
    }

    /// The files by their real paths, and again by the paths of links that lead to them.
    pub(super) fn into_files(mut self) -> BTreeMap<String, Content> {
        self.end_layer();
        let mut files = BTreeMap::new();
        for (path, node) in &self.lower {
            let content = match node {
                Node::File(content) => Some(content),
                // A link counts as the file only where a file is looked for: `EFI/BOOT`, `vmlinuz`.
                Node::Link(_) => match self.lower.get(&self.resolve(path)) {
                    Some(Node::File(content)) => Some(content),
                    _ => None,
                },
            };
            if let Some(content) = content {
                files.insert(path.clone(), content.clone());
            }
        }
        files
    }

    fn remove_all(&mut self, path: &str) {
        let removed = [self.lower.remove(path), self.upper.remove(path)];
        if removed.iter().any(Option::is_some) {
            self.last = None;
        }
        remove_below(&mut self.lower, path);
        remove_below(&mut self.upper, path);
    }

    /// Where an entry with this path ends up: links in its parent are followed, the last segment is not.
    fn place(&mut self, path: &str) -> String {
        let Some((parent, name)) = path.rsplit_once('/') else {
            return path.to_owned();
        };
        let resolved = match &self.last {
            Some((last, resolved)) if last == parent => resolved.clone(),
            _ => {
                let resolved = self.resolve(parent);
                self.last = Some((parent.to_owned(), resolved.clone()));
                resolved
            }
        };
        match resolved.is_empty() {
            true => name.to_owned(),
            false => format!("{resolved}/{name}"),
        }
    }

    /// Follows links, inside this tree only.
    fn resolve(&self, path: &str) -> String {
        let mut wanted: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut resolved: Vec<String> = Vec::new();
        let mut hops = 0;
        while let Some(segment) = wanted.pop() {
            match segment.as_str() {
                "" | "." => continue,
                ".." => {
                    resolved.pop();
                    continue;
                }
                _ => resolved.push(segment),
            }
            let so_far = resolved.join("/");
            let node = self.upper.get(&so_far).or_else(|| self.lower.get(&so_far));
            if let Some(Node::Link(target)) = node
                && hops < MAX_HOPS
            {
                hops = hops.saturating_add(1);
                match target.starts_with('/') {
                    true => resolved.clear(),
                    false => drop(resolved.pop()),
                }
                wanted.extend(target.rsplit('/').map(str::to_owned));
            }
        }
        resolved.join("/")
    }
}

fn remove_below(tree: &mut BTreeMap<String, Node>, path: &str) {
    let (first, after) = (format!("{path}/"), format!("{path}0"));
    while let Some(found) = tree.range(first.clone()..after.clone()).next() {
        let found = found.0.clone();
        tree.remove(&found);
    }
}

/// As the kernel: ELOOP after 40.
const MAX_HOPS: u8 = 40;
/// What a link costs beside its path, roughly.
const NODE: usize = 128;
/// An image of today has some 30 000 symbolic links, about 5 MiB.
const MAX_BYTES: usize = 20 * 1024 * 1024;
