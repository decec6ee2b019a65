// SPDX-License-Identifier: Apache-2.0

//! The one clock that the host does not set: time since the kernel started.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// CLOCK_BOOTTIME: counts on while the machine sleeps.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}
