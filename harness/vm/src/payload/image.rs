//! From an ELF's bytes to guest-physical memory. Whatever the bytes are, this ends with an image or
//! with a reason, and takes little more memory than the guest's RAM.

use std::cell::RefCell;
use std::collections::HashMap;

use guest_protocol::layout;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};

use super::code::{self, Code};
use crate::arch;

/// Bytes of a path in the guest's tables: more is no path of ours.
const LONGEST_NAME: u64 = 1024;

/// Where bytes of an ELF are in guest-physical memory, and which.
pub type Segment<'elf> = (u64, &'elf [u8]);

/// A payload, laid out as the guest will see it.
#[derive(Debug)]
pub struct Image<'elf> {
    /// Guest-physical memory from 0 to [`layout::SCRATCH`]: the tables that vCPUs start on.
    pub tables: Vec<u8>,
    /// What is behind them; all else is zeroes.
    pub segments: Vec<Segment<'elf>>,
    /// Bytes from 0 to the payload's end.
    pub len: u64,
    /// The first instruction.
    pub start: u64,
    /// Guest function → address.
    pub entries: HashMap<String, u64>,
    /// Shared static → address and size.
    pub shared: HashMap<String, (u64, u64)>,
    /// What `guest_asm!` assembled.
    pub codes: Vec<Code>,
    /// The symbols that the architecture asked for, and their addresses: there are thousands of others.
    pub symbols: HashMap<String, u64>,
}

impl<'elf> Image<'elf> {
    /// Lays out an ELF, with the tables that vCPUs start on.
    ///
    /// # Errors
    ///
    /// Anything that is not the ELF of a payload.
    pub fn parse(elf: &'elf [u8]) -> Result<Self, String> {
        let file = object::File::parse(elf).map_err(|e| e.to_string())?;
        let (segments, len) = segments(&file)?;
        let mut tables = vec![0; layout::SCRATCH as usize];
        let symbols = RefCell::<HashMap<String, u64>>::default();
        arch::prepare_image(&mut tables, |name| {
            let address = symbol(&file, name)?;
            symbols.borrow_mut().insert(name.to_owned(), address);
            Some(address)
        })?;
        let mut entries = HashMap::new();
        for [name, len, address] in
            rows(&file, "guest_entries")?.ok_or("no section guest_entries")?
        {
            entries.insert(text(&segments, name, len)?, address);
        }
        let mut shared = HashMap::new();
        for [name, len, address, size] in rows(&file, "guest_shared")?.unwrap_or_default() {
            shared.insert(text(&segments, name, len)?, (address, size));
        }
        let codes = match file.section_by_name(".guest_asm") {
            Some(section) => {
                let records = section.data().map_err(|e| e.to_string())?;
                code::parse(records, |at, len| slice(&segments, at, len).map(<[u8]>::to_vec))?
            }
            None => Vec::new(),
        };
        Ok(Self {
            tables,
            segments,
            len,
            start: file.entry(),
            entries,
            shared,
            codes,
            symbols: symbols.into_inner(),
        })
    }
}

/// Address of a symbol.
fn symbol(file: &object::File<'_>, name: &str) -> Option<u64> {
    file.symbols().find(|symbol| symbol.name_bytes() == Ok(name.as_bytes())).map(|s| s.address())
}

/// Every segment's place and bytes, and where the last one ends.
fn segments<'elf>(file: &object::File<'elf>) -> Result<(Vec<Segment<'elf>>, u64), String> {
    let (mut segments, mut len) = (Vec::new(), layout::PAYLOAD);
    for segment in file.segments() {
        let (start, size) = (segment.address(), segment.size());
        let data = segment.data().map_err(|e| e.to_string())?;
        let end = start
            .checked_add(size)
            .filter(|end| {
                let is_low = arch::LOW_TEXT.contains(&start) && *end <= arch::LOW_TEXT.end;
                is_low || start >= layout::PAYLOAD && *end <= layout::NESTED_AREA
            })
            .ok_or_else(|| {
                format!("segment of {size:#x} bytes at {start:#x} is outside the payload's place")
            })?;
        if data.len() as u64 > size {
            return Err(format!("segment at {start:#x} has more bytes than its size"));
        }
        len = len.max(end.next_multiple_of(layout::PAGE_SIZE));
        segments.push((start, data));
    }
    Ok((segments, len))
}

/// The rows of a table of `N` words each, if there is such a section.
fn rows<const N: usize>(
    file: &object::File<'_>,
    section: &str,
) -> Result<Option<Vec<[u64; N]>>, String> {
    let Some(section) = file.section_by_name(section) else { return Ok(None) };
    let data = section.data().map_err(|e| e.to_string())?;
    let word = |row: &[u8], nth: usize| {
        u64::from_ne_bytes(row[8 * nth..8 * nth + 8].try_into().unwrap_or_default())
    };
    let rows = data.chunks_exact(8 * N).map(|row| std::array::from_fn(|nth| word(row, nth)));
    Ok(Some(rows.collect()))
}

/// The `len` bytes of text at `address`.
fn text(segments: &[Segment<'_>], address: u64, len: u64) -> Result<String, String> {
    if len > LONGEST_NAME {
        return Err(format!("a name at {address:#x} has {len} bytes"));
    }
    let bytes = slice(segments, address, len);
    let bytes = bytes.ok_or_else(|| format!("a name at {address:#x} is in no segment"))?;
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("a name at {address:#x} is not UTF-8"))
}

/// The `len` bytes at `address`, as the ELF has them.
fn slice<'elf>(segments: &[Segment<'elf>], address: u64, len: u64) -> Option<&'elf [u8]> {
    segments.iter().find_map(|(start, data)| {
        let from = usize::try_from(address.checked_sub(*start)?).ok()?;
        data.get(from..from.checked_add(usize::try_from(len).ok()?)?)
    })
}
