//! The code that `guest_asm!` assembled: by name, and as text where a vCPU stands in it. The records that
//! `suites/macros/src/guest_asm.rs` writes are in a section that takes no guest memory.

use std::fmt::Write;

use crate::Ram;

/// A blob of assembled code.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Path of its static.
    pub name: String,
    /// Where it is in the payload.
    pub address: u64,
    /// 16, 32 or 64: the mode that it was assembled for.
    pub bits: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Offset and text of each line.
    pub lines: Vec<(u32, String)>,
}

/// Reads the records of a payload; `bytes_at` gives so many bytes at an address of it.
///
/// # Errors
///
/// They are no such records.
pub(super) fn parse(
    records: &[u8],
    bytes_at: impl Fn(u64, u64) -> Option<Vec<u8>>,
) -> Result<Vec<Code>, String> {
    let mut input = Input(records);
    let mut codes = Vec::new();
    while !input.0.is_empty() {
        let code = input.code(&bytes_at).ok_or("a record of assembled code is malformed")?;
        codes.push(code);
    }
    Ok(codes)
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn code(&mut self, bytes_at: impl Fn(u64, u64) -> Option<Vec<u8>>) -> Option<Code> {
        let address = u64::from_ne_bytes(self.array()?);
        let len = self.word()?;
        let bits = self.word()?;
        let nr_lines = self.word()?;
        let name = self.text()?;
        // A line has eight bytes at least.
        let lines = (0..nr_lines.min(self.0.len() as u32 / 8 + 1))
            .map(|_| Some((self.word()?, self.text()?)))
            .collect::<Option<Vec<_>>>()?;
        let bytes = bytes_at(address, len.into())?;
        (lines.len() == nr_lines as usize).then_some(Code { name, address, bits, bytes, lines })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn word(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let len = self.word()? as usize;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

impl Code {
    /// How far into this code `address` is, in the payload or in a copy of it in guest memory.
    fn offset(&self, ram: &Ram, address: u64) -> Option<u64> {
        let in_place = address.checked_sub(self.address).filter(|at| *at < self.bytes.len() as u64);
        in_place.or_else(|| {
            let offsets = self.lines.iter().map(|(offset, _)| u64::from(*offset));
            offsets.rev().find(|offset| {
                let mut copy = vec![0; self.bytes.len()];
                let start = address.checked_sub(*offset);
                start.and_then(|gpa| ram.read(gpa, &mut copy)).is_some() && copy == self.bytes
            })
        })
    }

    /// Its lines, with an arrow at the one that `offset` is in.
    fn listing(&self, address: u64, offset: u64) -> String {
        let mut text =
            format!("\ncode at {:#x}: {}, {} bits", address - offset, self.name, self.bits);
        let ends = self.lines.iter().skip(1).map(|(start, _)| *start);
        let ends = ends.chain([self.bytes.len() as u32]);
        for ((start, line), end) in self.lines.iter().zip(ends) {
            let here = (u64::from(*start)..u64::from(end)).contains(&offset);
            let bytes: String = self
                .bytes
                .get(*start as usize..end as usize)
                .unwrap_or_default()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let arrow = if here { "=>" } else { "  " };
            let _ = write!(text, "\n {arrow} +{start:#04x} {bytes:<16} {line}");
        }
        text
    }
}

/// The assembled code that a vCPU at guest-physical `address` stands in, as text; nothing where it
/// stands elsewhere.
pub(super) fn listing(codes: &[Code], ram: &Ram, address: u64) -> Option<String> {
    let found = codes.iter().filter_map(|code| Some((code, code.offset(ram, address)?)));
    // Of several whose bytes are there the payload's own is it, or the longest says most.
    let (code, offset) =
        found.max_by_key(|(code, offset)| (code.address + offset == address, code.bytes.len()))?;
    Some(code.listing(address, offset))
}

#[cfg(test)]
mod tests {
    use guest_protocol::layout;

    use super::*;
    use crate::Mapping;

    fn record() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0x20_1000_u64.to_ne_bytes());
        for word in [4_u32, 16, 2, 6] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(b"a::SMM");
        for (offset, text) in [(0_u32, "out 0x95, al"), (2, "rsm")] {
            bytes.extend(offset.to_ne_bytes());
            bytes.extend((text.len() as u32).to_ne_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    const BYTES: [u8; 4] = [0xe6, 0x95, 0x0f, 0xaa];

    fn codes() -> Vec<Code> {
        let bytes_at = |address, len| (address == 0x20_1000 && len == 4).then(|| BYTES.to_vec());
        parse(&record(), bytes_at).expect("a record")
    }

    #[test]
    fn code_is_shown_in_the_payload_and_in_its_copies() {
        let ram = Ram(Mapping::anonymous(layout::DEFAULT_RAM_SIZE as usize).expect("memory"));
        ram.write(0x3_8000, &BYTES).expect("RAM");
        let shown = |address| listing(&codes(), &ram, address);
        let want = |start: &str, first: &str, second: &str| {
            Some(format!(
                "\ncode at {start}: a::SMM, 16 bits\n {first} +0x00 e695             out 0x95, al\n {second} +0x02 0faa             rsm"
            ))
        };
        assert_eq!(shown(0x20_1000), want("0x201000", "=>", "  "));
        assert_eq!(shown(0x20_1003), want("0x201000", "  ", "=>"));
        assert_eq!(shown(0x3_8000), want("0x38000", "=>", "  "));
        assert_eq!(shown(0x3_8002), want("0x38000", "  ", "=>"));
        for elsewhere in [0, 0x20_1004, 0x3_8001, 0x3_8004, u64::MAX] {
            assert_eq!(shown(elsewhere), None, "{elsewhere:#x}");
        }
    }

    #[test]
    fn garbage_is_no_record() {
        let none = |_, _| Some(Vec::new());
        for len in 1..record().len() {
            assert!(parse(&record()[..len], none).is_err(), "{len} bytes");
        }
        let mut lines = record();
        lines[16..20].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(parse(&lines, none).is_err());
        assert!(parse(&record(), |_, _| None).is_err());
    }
}
