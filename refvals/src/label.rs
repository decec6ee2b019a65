// SPDX-License-Identifier: Apache-2.0

//! What an image's builder says that it measures, beside what it measures. The label `org.coreos.pcrs` is a statement of
//! the builder about himself, and images that are built upon this one inherit it with another kernel inside: a
//! difference is told, and the computed value counts.

use crate::Error;
use measured_boot::bank::Bank;
use measured_boot::combine::Tuple;
use measured_boot::facts::ImageFacts;
use measured_boot::path::BootPath;
use measured_boot::platform::PlatformFacts;
use measured_boot::predict::candidates;

/// What the label says that none of the boots shows which this image has on these platforms. Where several boots are
/// possible the label may mean any of them.
///
/// # Errors
/// As [`candidates`], other than that the image does not start on a platform.
pub fn check(
    image: &ImageFacts,
    path: &BootPath,
    platforms: &[PlatformFacts],
    bank: Bank,
) -> Result<Vec<String>, Error> {
    if image.claimed_pcrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut said = None;
    for platform in platforms {
        let boots = match candidates(image, platform, path) {
            Err(error) if error.means_no_boot() => continue,
            boots => boots?,
        };
        for boot in boots {
            let contradictions = contradictions(image, &Tuple::of(&boot, bank)?, bank);
            if contradictions.is_empty() {
                return Ok(contradictions);
            }
            said.get_or_insert(contradictions);
        }
    }
    Ok(said.unwrap_or_default())
}

/// Each PCR of which the label says something else. PCR 7 is left out: the builder's platform is not ours. Labels know no
/// bank but SHA-256.
fn contradictions(image: &ImageFacts, computed: &Tuple, bank: Bank) -> Vec<String> {
    let claims = image.claimed_pcrs.iter();
    let of_the_image = claims.filter(|(pcr, _)| bank == Bank::Sha256 && **pcr != PLATFORM);
    let differs = of_the_image.filter_map(|(pcr, claimed)| {
        let computed = computed.get(*pcr)?.to_string();
        (computed != *claimed).then(|| {
            format!(
                "the label org.coreos.pcrs says {claimed} for PCR {pcr}, which is not what this image boots: it may be \
                 inherited"
            )
        })
    });
    differs.collect()
}

const PLATFORM: u8 = 7;
