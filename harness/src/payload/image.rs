//! From an ELF's bytes to guest-physical memory. Whatever the bytes are, this ends with an image or
//! with a reason, and takes little more memory than the guest's RAM.

use std::collections::HashMap;

use guest_protocol::layout;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};

use crate::arch;

/// Bytes of a path in the guest's tables: more is no path of ours.
const LONGEST_NAME: u64 = 1024;

/// A payload, laid out as the guest will see it.
#[derive(Debug)]
pub struct Image<'elf> {
    /// Guest-physical memory from 0 to the payload's end.
    pub bytes: Vec<u8>,
    /// The first instruction.
    pub start: u64,
    /// Guest function → address.
    pub entries: HashMap<String, u64>,
    /// Shared static → address and size.
    pub shared: HashMap<String, (u64, u64)>,
    /// Symbol → address.
    pub symbols: HashMap<&'elf str, u64>,
}

impl<'elf> Image<'elf> {
    /// Lays out an ELF, with the tables that vCPUs start on.
    ///
    /// # Errors
    ///
    /// Anything that is not the ELF of a payload.
    pub fn parse(elf: &'elf [u8]) -> Result<Self, String> {
        let file = object::File::parse(elf).map_err(|e| e.to_string())?;
        let mut bytes = segments(&file)?;
        let symbols: HashMap<&'elf str, u64> =
            file.symbols().filter_map(|s| Some((s.name().ok()?, s.address()))).collect();
        arch::prepare_image(&mut bytes, |name| symbols.get(name).copied())?;
        let mut entries = HashMap::new();
        for [name, len, address] in
            rows(&file, "guest_entries")?.ok_or("no section guest_entries")?
        {
            entries.insert(text(&bytes, name, len)?, address);
        }
        let mut shared = HashMap::new();
        for [name, len, address, size] in rows(&file, "guest_shared")?.unwrap_or_default() {
            shared.insert(text(&bytes, name, len)?, (address, size));
        }
        Ok(Self { bytes, start: file.entry(), entries, shared, symbols })
    }
}

/// Memory from 0 on with every segment in its place.
fn segments(file: &object::File<'_>) -> Result<Vec<u8>, String> {
    let mut image = vec![0; layout::PAYLOAD as usize];
    for segment in file.segments() {
        let (start, size) = (segment.address(), segment.size());
        let data = segment.data().map_err(|e| e.to_string())?;
        let end = start
            .checked_add(size)
            .filter(|end| start >= layout::PAYLOAD && *end <= layout::RAM_SIZE)
            .ok_or_else(|| {
                format!("segment of {size:#x} bytes at {start:#x} is outside the payload's place")
            })?;
        if data.len() as u64 > size {
            return Err(format!("segment at {start:#x} has more bytes than its size"));
        }
        image.resize(image.len().max(end.next_multiple_of(layout::PAGE_SIZE) as usize), 0);
        image[start as usize..start as usize + data.len()].copy_from_slice(data);
    }
    Ok(image)
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
fn text(image: &[u8], address: u64, len: u64) -> Result<String, String> {
    if len > LONGEST_NAME {
        return Err(format!("a name at {address:#x} has {len} bytes"));
    }
    let end = address.checked_add(len).filter(|end| *end <= image.len() as u64);
    let end = end.ok_or_else(|| format!("a name at {address:#x} is outside the image"))?;
    String::from_utf8(image[address as usize..end as usize].to_vec())
        .map_err(|_| format!("a name at {address:#x} is not UTF-8"))
}
