// SPDX-License-Identifier: Apache-2.0

//! One exit code for each party that can be at fault, so that scripts and units can tell them apart.

use kbs_protocol::Owner;
use std::process::ExitCode;

/// The command line was not understood.
pub const USAGE: u8 = 2;

/// Any failure of the Clevis pin: its callers know success, failure and usage only.
pub const PIN_FAILURE: u8 = 1;

/// The code for an error that this party has to mend. `docs/exit-codes.md` lists them.
pub fn code(owner: Owner) -> u8 {
    owner.exit_code()
}

/// The code as `main` returns it.
pub fn status(owner: Owner) -> ExitCode {
    ExitCode::from(code(owner))
}

#[cfg(test)]
mod tests {
    use super::code;
    use kbs_protocol::Owner;

    #[test]
    fn the_documented_table_is_the_one_in_force() {
        let table = include_str!("../../docs/exit-codes.md");
        for owner in Owner::ALL {
            let row = format!("| {} | {} |", code(owner), owner.as_str());
            assert!(table.contains(&row), "docs/exit-codes.md lacks `{row}`");
        }
    }
}
