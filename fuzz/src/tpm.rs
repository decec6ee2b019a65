// SPDX-License-Identifier: Apache-2.0

//! What a TPM signed and what it says of its keys, as a verifier and a registrar get it from strangers.

use kbs_protocol::encoding::b64;
use kbs_protocol::evidence::{TpmEvidence, TpmQuote};
use kbs_protocol::tpm::public::{PublicArea, PublicKey, attribute};
use kbs_protocol::tpm::{Attest, rsassa_sha256_signature};
use kbs_protocol::verify::tpm_quote as verify;
use kbs_protocol::volume_record::{SignedRecord, VerifiedRecord, VolumeRecord, is_vk_id};
use rsa::pkcs8::EncodePublicKey as _;
use rsa::signature::{SignatureEncoding as _, Signer as _};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Nobody changes evidence that a TPM signed: what is accepted says what the recorded evidence says.
pub fn tpm_evidence(bytes: &[u8]) -> bool {
    let Ok(evidence) = serde_json::from_slice::<TpmEvidence>(bytes) else {
        return false;
    };
    let Ok(quote) = verify(&evidence, &EXTRA_DATA) else {
        return false;
    };
    let recorded = verify(&RECORDED, &EXTRA_DATA).unwrap();
    assert_eq!(quote, recorded, "accepted, and not what was signed");
    assert_eq!(evidence.ak_public, RECORDED.ak_public);
    true
}

/// A TPMS_ATTEST is read as it was written. Signed by a good key, it is evidence only for its session, only over
/// the whole bank, and only with the PCRs that it was made over.
pub fn tpm_quote(bytes: &[u8]) -> bool {
    // As a signature it says nothing, but its reader must live.
    let _ = rsassa_sha256_signature(bytes);
    let Ok(attest) = Attest::parse(bytes) else {
        return false;
    };
    assert_eq!(marshal(&attest), bytes, "read and written differ");
    let accepted = verify(&signed(bytes), &EXTRA_DATA).is_ok();
    if accepted {
        assert_eq!(attest.extra_data, EXTRA_DATA);
        assert!(attest.require_full_sha256_selection().is_ok());
        let recorded = verify(&RECORDED, &EXTRA_DATA).unwrap();
        assert_eq!(attest.pcr_digest, recorded.attest.pcr_digest);
    }
    accepted
}

/// A TPM2B_PUBLIC is read as it was written: its name is the hash of its bytes, its key has a DER form that other
/// readers read alike, and no attribute is set that nobody knows.
pub fn tpm_public(bytes: &[u8]) -> bool {
    let Ok(area) = PublicArea::parse_sized(bytes) else {
        return false;
    };
    let digest = Sha256::digest(&bytes[2..]);
    assert_eq!(area.name()[..], [&[0, 0x0b], &digest[..]].concat());
    assert_eq!(area.attributes & RESERVED, 0);
    let der = area.spki_der().unwrap();
    if let PublicKey::Rsa { exponent, modulus } = &area.key {
        use rsa::traits::PublicKeyParts as _;
        // The library has limits of its own, for size and exponent.
        if let Ok(key) =
            <rsa::RsaPublicKey as rsa::pkcs8::DecodePublicKey>::from_public_key_der(&der)
        {
            assert_eq!(key.n().to_bytes_be(), *modulus);
            assert_eq!(
                key.e().to_bytes_be(),
                rsa::BigUint::from(*exponent).to_bytes_be()
            );
        }
    }
    true
}

/// A record of volume keys is written as it was read, names each volume once and each key by its id. Nobody changes what a
/// TPM signed of them: what is accepted says what the recorded record says.
pub fn volume_record(bytes: &[u8]) -> bool {
    let Ok(signed) = SignedRecord::parse(bytes) else {
        return false;
    };
    assert_eq!(SignedRecord::parse(&signed.to_json()).unwrap(), signed);
    if let Ok(record) = VolumeRecord::parse(&signed.record) {
        assert_eq!(VolumeRecord::parse(&record.to_text()).unwrap(), record);
        let volumes = record.volumes();
        let paths: BTreeSet<_> = volumes.iter().map(|volume| &volume.path).collect();
        assert_eq!(paths.len(), volumes.len());
        assert!((1..=16).contains(&volumes.len()));
        assert!(volumes.iter().all(|volume| is_vk_id(&volume.vk_id)));
    }
    let Ok(verified) = signed.verify() else {
        return false;
    };
    assert_eq!(signed.record, RECORDED_VOLUMES.record);
    assert_eq!(
        verified, *VERIFIED_VOLUMES,
        "accepted, and not what was signed"
    );
    true
}

fn marshal(attest: &Attest) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    let mut bytes = vec![0xff, b'T', b'C', b'G', 0x80, 0x18];
    bytes.extend(sized(&attest.qualified_signer));
    bytes.extend(sized(&attest.extra_data));
    bytes.extend(attest.clock.to_be_bytes());
    bytes.extend(attest.reset_count.to_be_bytes());
    bytes.extend(attest.restart_count.to_be_bytes());
    bytes.push(u8::from(attest.safe));
    bytes.extend(attest.firmware_version.to_be_bytes());
    bytes.extend(
        u32::try_from(attest.pcr_selections.len())
            .unwrap()
            .to_be_bytes(),
    );
    for selection in &attest.pcr_selections {
        bytes.extend(selection.hash_alg.to_be_bytes());
        bytes.push(u8::try_from(selection.bitmap.len()).unwrap());
        bytes.extend(&selection.bitmap);
    }
    bytes.extend(sized(&attest.pcr_digest));
    bytes
}

/// Evidence over this message, with the recorded PCRs, by a key of our own: as if a TPM had been made to sign it.
pub fn signed(message: &[u8]) -> TpmEvidence {
    let signature = AK.sign(message).to_vec();
    let signature = [&[0, 0x14, 0, 0x0b, 1, 0][..], &signature].concat();
    TpmEvidence {
        ak_public: AK_PUBLIC.clone(),
        tpm_quote: TpmQuote {
            message: b64::encode(message),
            signature: b64::encode(signature),
            pcrs: RECORDED.tpm_quote.pcrs.clone(),
        },
    }
}

/// Recorded by `vectors/record-tpm`.
pub static RECORDED: LazyLock<TpmEvidence> =
    LazyLock::new(|| serde_json::from_slice(include_bytes!("../vectors/evidence.json")).unwrap());

/// A record by a key of our own: as if a TPM had been made to sign this text.
pub fn signed_volumes(text: &str) -> SignedRecord {
    let mut message = crate::corpus::QUOTE.to_vec();
    message[44..76].copy_from_slice(&VolumeRecord::extra_data(text));
    SignedRecord {
        record: text.to_owned(),
        evidence: signed(&message),
    }
}

/// Recorded by `vectors/record-volumes`.
pub static RECORDED_VOLUMES: LazyLock<SignedRecord> =
    LazyLock::new(|| SignedRecord::parse(include_bytes!("../vectors/volumes.json")).unwrap());

static VERIFIED_VOLUMES: LazyLock<VerifiedRecord> =
    LazyLock::new(|| RECORDED_VOLUMES.verify().unwrap());

/// What it was recorded for.
pub const EXTRA_DATA: [u8; 32] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
    27, 28, 29, 30, 31, 32,
];

static AK: LazyLock<rsa::pkcs1v15::SigningKey<Sha256>> = LazyLock::new(|| {
    rsa::pkcs1v15::SigningKey::new(rsa::RsaPrivateKey::new(&mut rand_core::OsRng, 2048).unwrap())
});

static AK_PUBLIC: LazyLock<String> = LazyLock::new(|| {
    let key: &rsa::RsaPrivateKey = AK.as_ref();
    b64::encode(key.to_public_key().to_public_key_der().unwrap())
});

const RESERVED: u32 = !(attribute::FIXED_TPM
    | attribute::ST_CLEAR
    | attribute::FIXED_PARENT
    | attribute::SENSITIVE_DATA_ORIGIN
    | attribute::USER_WITH_AUTH
    | attribute::ADMIN_WITH_POLICY
    | attribute::NO_DA
    | attribute::ENCRYPTED_DUPLICATION
    | attribute::RESTRICTED
    | attribute::DECRYPT
    | attribute::SIGN);
