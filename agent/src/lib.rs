// SPDX-License-Identifier: Apache-2.0

//! The parts of `trustee-agent`, the one program on the node.

pub mod config;
pub mod evidence;
pub mod kbs;
pub mod trust;
