// SPDX-License-Identifier: Apache-2.0

//! What an image's builder says that it measures, beside what it measures. The label `org.coreos.pcrs` is a statement of
//! the builder about himself, and images that are built upon this one inherit it with another kernel inside: a
//! difference is told, and the computed value counts.

use measured_boot::bank::Bank;
use measured_boot::combine::Tuple;
use measured_boot::facts::ImageFacts;

/// Each PCR of which the label says something else. PCR 7 is left out: the builder's platform is not ours. Labels know no
/// bank but SHA-256.
pub fn contradictions(image: &ImageFacts, computed: &Tuple, bank: Bank) -> Vec<String> {
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
