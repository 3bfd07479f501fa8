//! The payload: parsed once, mapped copy-on-write into every VM.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use guest_protocol::layout;
use nix::sys::memfd::{MFdFlags, memfd_create};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};

use crate::arch;
use crate::case::GuestFn;
use crate::kvm::{Mapping, Ram};
use crate::outcome::{Failure, TestResult};
use crate::runner::worker::keep_open;

/// Frames that a backtrace shows at most.
const MAX_FRAMES: usize = 16;

/// A payload ELF, loaded.
#[derive(Debug)]
pub struct Payload {
    elf: &'static [u8],
    image: File,
    image_len: usize,
    start: u64,
    entries: HashMap<String, u64>,
    shared: HashMap<String, (u64, u64)>,
}

static PAYLOAD: OnceLock<Payload> = OnceLock::new();

impl Payload {
    /// Makes `elf` the payload of this process.
    ///
    /// # Errors
    ///
    /// It is not a payload that this harness can load.
    pub fn init(elf: &'static [u8]) -> Result<&'static Self, String> {
        if let Some(payload) = PAYLOAD.get() {
            return Ok(payload);
        }
        let payload = Self::load(elf).map_err(|e| format!("the payload cannot be loaded: {e}"))?;
        keep_open(payload.image.as_raw_fd());
        Ok(PAYLOAD.get_or_init(|| payload))
    }

    /// The payload of this process.
    ///
    /// # Errors
    ///
    /// [`Payload::init`] has not been called.
    pub fn get() -> TestResult<&'static Self> {
        PAYLOAD
            .get()
            .ok_or_else(|| Failure::Error("no payload was loaded into this process".into()))
    }

    /// Parses an ELF and lays it out as the guest will see it.
    ///
    /// # Errors
    ///
    /// Anything that is not the ELF of a payload.
    pub fn load(elf: &'static [u8]) -> Result<Self, String> {
        let file = object::File::parse(elf).map_err(|e| e.to_string())?;
        let mut image = vec![0; layout::PAYLOAD as usize];
        for segment in file.segments() {
            let data = segment.data().map_err(|e| e.to_string())?;
            let (start, end) = (segment.address(), segment.address().checked_add(segment.size()));
            let end = end.filter(|end| start >= layout::PAYLOAD && *end <= layout::RAM_SIZE);
            let end = end.ok_or_else(|| {
                format!(
                    "segment of {:#x} bytes at {start:#x} is outside the payload's place",
                    segment.size()
                )
            })?;
            if data.len() as u64 > segment.size() {
                return Err(format!("segment at {start:#x} has more bytes than its size"));
            }
            image.resize(image.len().max(end.next_multiple_of(layout::PAGE_SIZE) as usize), 0);
            image[start as usize..start as usize + data.len()].copy_from_slice(data);
        }
        let symbols: HashMap<&str, u64> =
            file.symbols().filter_map(|s| Some((s.name().ok()?, s.address()))).collect();
        arch::prepare_image(&mut image, |name| symbols.get(name).copied())?;

        let rows = |section: &str, words: usize| -> Result<Vec<Vec<u64>>, String> {
            let section = file.section_by_name(section).ok_or(format!("no section {section}"))?;
            let data = section.data().map_err(|e| e.to_string())?;
            let word = |w: &[u8]| u64::from_ne_bytes(w.try_into().unwrap_or_default());
            Ok(data
                .chunks_exact(8 * words)
                .map(|row| row.chunks_exact(8).map(word).collect())
                .collect())
        };
        let name = |address: u64, len: u64| -> Result<String, String> {
            let end = address.checked_add(len).filter(|end| *end <= image.len() as u64);
            let end = end.ok_or(format!("a name at {address:#x} is outside the image"))?;
            let bytes = &image[address as usize..end as usize];
            String::from_utf8(bytes.to_vec())
                .map_err(|_| format!("a name at {address:#x} is not UTF-8"))
        };
        let mut entries = HashMap::new();
        for row in rows("guest_entries", 3)? {
            entries.insert(name(row[0], row[1])?, row[2]);
        }
        let mut shared = HashMap::new();
        for row in rows("guest_shared", 4).unwrap_or_default() {
            shared.insert(name(row[0], row[1])?, (row[2], row[3]));
        }

        let fd = memfd_create("payload", MFdFlags::MFD_CLOEXEC)
            .map_err(|e| format!("memfd_create: {e}"))?;
        let image_file = File::from(fd);
        image_file.write_all_at(&image, 0).map_err(|e| format!("writing the image: {e}"))?;
        Ok(Self {
            elf,
            image: image_file,
            image_len: image.len(),
            start: file.entry(),
            entries,
            shared,
        })
    }

    /// Guest functions, by path.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Address of a guest function.
    ///
    /// # Errors
    ///
    /// The payload has none of that name.
    pub fn entry(&self, guest: GuestFn) -> TestResult<u64> {
        self.entries.get(guest.name).copied().ok_or_else(|| {
            Failure::Error(format!("the payload has no guest function {}", guest.name))
        })
    }

    /// Address of a shared static of `size` bytes.
    ///
    /// # Errors
    ///
    /// The payload has none of that name and size.
    pub fn shared(&self, path: &str, size: usize) -> TestResult<u64> {
        match self.shared.get(path) {
            Some(&(address, bytes)) if bytes == size as u64 => Ok(address),
            Some(_) => Err(Failure::Error(format!("{path} has another size in the payload"))),
            None => Err(Failure::Error(format!("the payload has no shared static {path}"))),
        }
    }

    /// The first instruction.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Memory for one VM: a private view of the image, zeroes behind it.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn instantiate(&self) -> TestResult<Ram> {
        let mut mapping = Mapping::anonymous(layout::RAM_SIZE as usize)?;
        mapping.overlay(&self.image, self.image_len)?;
        Ok(Ram(mapping))
    }

    /// The calls that led to `pc`, by frame pointers, each as function and file:line.
    pub fn backtrace(&self, ram: &Ram, pc: u64, fp: u64) -> String {
        let mut addresses = vec![pc];
        let mut fp = fp;
        while addresses.len() < MAX_FRAMES {
            let mut frame = [0; 16];
            if fp == 0 || !fp.is_multiple_of(8) || ram.read(fp, &mut frame).is_none() {
                break;
            }
            let word = |i: usize| {
                u64::from_ne_bytes(frame[i * 8..i * 8 + 8].try_into().unwrap_or_default())
            };
            let (next, return_address) = (word(0), word(1));
            if !(layout::PAYLOAD..layout::RAM_SIZE).contains(&return_address) {
                break;
            }
            // The call is before the address it returns to.
            addresses.push(return_address - 1);
            if next <= fp {
                break;
            }
            fp = next;
        }
        let mut text = String::from("\nguest backtrace:");
        for (i, address) in addresses.iter().enumerate() {
            text.push_str(&format!("\n  #{i} {address:#010x} {}", self.symbolize(*address)));
        }
        text
    }

    /// `function at file:line` for an address, innermost inlined function first.
    pub fn symbolize(&self, address: u64) -> String {
        let Some(context) = self.dwarf() else { return "(no debug information)".into() };
        let mut text = String::new();
        if let Ok(mut frames) = context.find_frames(address).skip_all_loads() {
            while let Ok(Some(frame)) = frames.next() {
                let name =
                    frame.function.as_ref().and_then(|f| f.demangle().ok().map(Cow::into_owned));
                let place = frame.location.map_or(String::new(), |l| {
                    format!(" at {}:{}", l.file.unwrap_or("?"), l.line.unwrap_or(0))
                });
                if !text.is_empty() {
                    text.push_str(", inlined into ");
                }
                text.push_str(&format!("{}{place}", name.as_deref().unwrap_or("?")));
            }
        }
        if text.is_empty() { "(outside the payload)".into() } else { text }
    }

    fn dwarf(
        &self,
    ) -> Option<addr2line::Context<gimli::EndianSlice<'static, gimli::RunTimeEndian>>> {
        let file = object::File::parse(self.elf).ok()?;
        let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
            let data = file.section_by_name(id.name()).and_then(|s| s.uncompressed_data().ok());
            let data: &'static [u8] = match data {
                Some(Cow::Borrowed(bytes)) => bytes,
                Some(Cow::Owned(bytes)) => bytes.leak(),
                None => &[],
            };
            Ok(gimli::EndianSlice::new(data, gimli::RunTimeEndian::Little))
        };
        let dwarf = gimli::Dwarf::load(section).ok()?;
        addr2line::Context::from_dwarf(dwarf).ok()
    }
}
