// SPDX-License-Identifier: Apache-2.0

//! Formats of the UEFI specification that measurements are made of: names ([`guid`]), variables as they are
//! measured ([`variable`]) and as firmware keeps them ([`store`]), and lists of keys and hashes ([`signature_list`]).

pub mod guid;
pub mod signature_list;
pub mod store;
pub mod variable;

pub use guid::Guid;
pub use signature_list::{SignatureEntry, SignatureList};
pub use variable::{VariableData, strip_attributes};
