// SPDX-License-Identifier: Apache-2.0

//! PE files made by hand, with the parts that Authenticode hashes known from how they were put together: a
//! second account of the rule, independent of the crate that we use.

use measured_boot::bank::Digests;

/// What to put into a file.
pub(crate) struct PeFile {
    pub(crate) is_64: bool,
    /// Name, content, virtual size.
    pub(crate) sections: Vec<(&'static str, Vec<u8>, u32)>,
    /// After the last section: symbol and string tables of some boot loaders.
    pub(crate) trailing: Vec<u8>,
    /// Entries of the certificate table, without header.
    pub(crate) signatures: Vec<Vec<u8>>,
}

impl PeFile {
    pub(crate) fn new(sections: Vec<(&'static str, Vec<u8>)>) -> Self {
        let sized = |(name, data): (_, Vec<u8>)| {
            let size = u32::try_from(data.len()).unwrap();
            (name, data, size)
        };
        Self {
            is_64: true,
            sections: sections.into_iter().map(sized).collect(),
            trailing: vec![],
            signatures: vec![],
        }
    }

    /// The file, and the digests that its Authenticode rule gives.
    pub(crate) fn build(&self) -> (Vec<u8>, Digests) {
        let (magic, fixed) = if self.is_64 {
            (0x20b_u16, 112)
        } else {
            (0x10b, 96)
        };
        let optional = 64 + 24;
        let table = optional + fixed + 16 * 8;
        let headers = (table + 40 * self.sections.len()).next_multiple_of(512);
        let mut file = vec![0; headers];
        let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            file[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let u32_of = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        put(&mut file, 0, b"MZ");
        put(&mut file, 0x3c, &u32_of(64));
        put(&mut file, 64, b"PE\0\0");
        put(&mut file, 68, &[0x64, 0x86]);
        put(&mut file, 70, &u32_of(self.sections.len())[..2]);
        put(&mut file, 84, &u32_of(fixed + 16 * 8)[..2]);
        put(&mut file, optional, &magic.to_le_bytes());
        put(&mut file, optional + 60, &u32_of(headers));
        put(&mut file, optional + 64, b"CHCK");
        put(&mut file, optional + fixed - 4, &u32_of(16));

        let mut strings = vec![0; 4];
        let mut raw = Vec::new();
        for (index, (name, data, virtual_size)) in self.sections.iter().enumerate() {
            let header = table + 40 * index;
            let short = match name.len() {
                0..=8 => (*name).to_owned(),
                _ => {
                    let reference = format!("/{}", strings.len());
                    strings.extend(name.bytes().chain([0]));
                    reference
                }
            };
            put(&mut file, header, short.as_bytes());
            put(&mut file, header + 8, &virtual_size.to_le_bytes());
            let padded = data.len().next_multiple_of(512);
            put(&mut file, header + 16, &u32_of(padded));
            put(&mut file, header + 20, &u32_of(headers + raw.len()));
            raw.extend(data);
            raw.resize(raw.len().next_multiple_of(512), 0);
        }
        let strings_at = headers + raw.len();
        let length = u32_of(strings.len());
        strings[..4].copy_from_slice(&length);
        put(&mut file, 76, &u32_of(strings_at));
        file.extend(&raw);
        file.extend(&strings);
        file.extend(&self.trailing);
        // Signing tools pad, and the padding is hashed.
        file.resize(file.len().next_multiple_of(8), 0);

        let security = optional + fixed + 4 * 8;
        let mut certificates = Vec::new();
        for signature in &self.signatures {
            certificates.extend(u32_of(signature.len() + 8));
            certificates.extend([0x00, 0x02, 0x02, 0x00]);
            certificates.extend(signature);
            certificates.resize(certificates.len().next_multiple_of(8), 0);
        }
        if !certificates.is_empty() {
            let at = u32_of(file.len());
            put(&mut file, security, &at);
            put(&mut file, security + 4, &u32_of(certificates.len()));
        }
        let hashed = [
            &file[..optional + 64],
            &file[optional + 68..security],
            &file[security + 8..],
        ]
        .concat();
        file.extend(certificates);
        (file, Digests::of(&hashed))
    }
}
