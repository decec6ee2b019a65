// SPDX-License-Identifier: Apache-2.0

//! What the process gives up before it holds its first secret.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Turns core dumps off twice: by limit, and by making the process non-dumpable, which also keeps other
/// processes of the same user from reading its memory.
///
/// Failure is not fatal: the unit file sets the same limits, and a kernel without the calls has no core
/// dumps to fear.
pub fn process() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

#[cfg(test)]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    #[test]
    fn no_core_dump_can_be_written() {
        super::process();
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
