//! The payload: parsed once, mapped copy-on-write into every VM.

mod code;
mod image;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use guest_protocol::layout;
use guest_runtime::asm::Blob;
use nix::sys::memfd::{MFdFlags, memfd_create};
use object::{Object, ObjectSection};

use crate::arch;
use crate::case::GuestFn;
use crate::failure::{Failure, TestResult};
use crate::keep_open;
use crate::{Mapping, Ram};
pub use code::Code;
pub use image::Image;

/// Frames that a backtrace shows at most.
const MAX_FRAMES: usize = 16;

/// A payload ELF, loaded.
#[derive(Debug)]
pub struct Payload<'elf> {
    elf: &'elf [u8],
    image: File,
    image_len: usize,
    start: u64,
    entries: HashMap<String, u64>,
    shared: HashMap<String, (u64, u64)>,
    symbols: HashMap<String, u64>,
    codes: Vec<Code>,
}

static PAYLOAD: OnceLock<Payload<'static>> = OnceLock::new();

impl Payload<'static> {
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
}

/// The bytes of a blob of `guest_asm!`, for the host half to put where they run.
///
/// # Errors
///
/// The payload has none of that name.
pub fn code_bytes(blob: &Blob) -> TestResult<&'static [u8]> {
    Ok(&Payload::get()?.code(blob)?.bytes)
}

impl<'elf> Payload<'elf> {
    /// Parses an ELF and lays it out as the guest will see it.
    ///
    /// # Errors
    ///
    /// Anything that is not the ELF of a payload, or no memory.
    pub fn load(elf: &'elf [u8]) -> Result<Self, String> {
        let image = Image::parse(elf)?;
        let fd = memfd_create("payload", MFdFlags::MFD_CLOEXEC)
            .map_err(|e| format!("memfd_create: {e}"))?;
        let file = File::from(fd);
        let write = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at);
        file.set_len(image.len)
            .and_then(|()| write(0, &image.tables))
            .and_then(|()| image.segments.iter().try_for_each(|(at, bytes)| write(*at, bytes)))
            .map_err(|e| format!("writing the image: {e}"))?;
        Ok(Self {
            elf,
            image: file,
            image_len: image.len as usize,
            start: image.start,
            entries: image.entries,
            shared: image.shared,
            symbols: image.symbols,
            codes: image.codes,
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

    /// What `guest_asm!` assembled for a blob.
    ///
    /// # Errors
    ///
    /// The payload has none of that name.
    pub fn code(&self, blob: &Blob) -> TestResult<&Code> {
        let found = self.codes.iter().find(|code| code.name == blob.name());
        found.ok_or_else(|| Failure::Error(format!("the payload has no code {}", blob.name())))
    }

    /// Address of a symbol that the architecture asked for when the image was laid out.
    ///
    /// # Errors
    ///
    /// There is none, or it did not ask.
    pub fn symbol(&self, name: &str) -> TestResult<u64> {
        let address = self.symbols.get(name).copied();
        address.ok_or_else(|| Failure::Error(format!("the payload has no symbol {name}")))
    }

    /// The first instruction.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Memory for one VM: a private view of the image, and zeroes behind it up to `ram_size`.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn instantiate(&self, ram_size: u64) -> TestResult<Ram> {
        if ram_size < self.image_len as u64 {
            return Err(Failure::Error(format!(
                "{ram_size:#x} bytes of RAM: the payload needs {:#x}",
                self.image_len
            )));
        }
        let mut mapping = Mapping::anonymous(ram_size as usize)?;
        mapping.overlay(&self.image, self.image_len)?;
        Ok(Ram(mapping))
    }

    /// The calls that led to `pc`, by frame pointers, each as function and file:line; of assembled code
    /// its lines.
    pub fn backtrace(&self, ram: &Ram, pc: u64, fp: u64) -> String {
        if let Some(listing) = code::listing(&self.codes, ram, pc) {
            return listing;
        }
        let mut addresses = vec![pc];
        let mut fp = fp;
        while addresses.len() < MAX_FRAMES {
            let Some((next, return_address)) = arch::caller(ram, fp) else { break };
            if !(layout::PAYLOAD..self.image_len as u64).contains(&return_address) {
                break;
            }
            // The call is before the address it returns to.
            addresses.push(return_address - 1);
            if next <= fp {
                break;
            }
            fp = next;
        }
        // How the runtime tells of a panic, and how a vCPU got to its test, is of no interest.
        let is_noise = |name: &String| {
            ["core::panicking", "panic at guest/", "(assembly)"].iter().any(|n| name.starts_with(n))
        };
        let frames = addresses.iter().map(|address| (address, self.symbolize(*address)));
        let frames = frames.skip_while(|(_, name)| is_noise(name));
        let is_entry = |name: &String| {
            ["(assembly)", "start at ", "run at guest/runtime/src/entry.rs"]
                .iter()
                .any(|n| name.starts_with(n))
        };
        let frames = frames.take_while(|(_, name)| !is_entry(name));
        let lines: Vec<String> = frames
            .enumerate()
            .map(|(i, (address, name))| format!("\n  #{i} {address:#010x} {name}"))
            .collect();
        if lines.is_empty() {
            return "\nguest backtrace: none".into();
        }
        format!("\nguest backtrace:{}", lines.concat())
    }

    /// `function at file:line` for an address: the function that was compiled, and the line in it
    /// or in what was inlined into it.
    pub fn symbolize(&self, address: u64) -> String {
        let Some(context) = self.dwarf() else { return "(no debug information)".into() };
        let (mut function, mut place): (Option<String>, Option<(String, u32)>) = (None, None);
        if let Ok(mut frames) = context.find_frames(address).skip_all_loads() {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|f| f.demangle().ok());
                function = name.map(|n| without_hash(&n).to_owned()).or(function);
                let here = frame.location.and_then(|l| Some((short(l.file?).to_owned(), l.line?)));
                // A line of the test says most, then one of the runtime, then where that went.
                let better = here.filter(|(file, _)| {
                    place.as_ref().is_none_or(|(old, _)| interest(file) > interest(old))
                });
                place = better.or(place);
            }
        }
        match (function, place) {
            (Some(function), Some((file, line))) => format!("{function} at {file}:{line}"),
            (Some(function), None) => function,
            _ => "(assembly)".into(),
        }
    }

    fn dwarf(&self) -> Option<addr2line::Context<gimli::EndianSlice<'elf, gimli::RunTimeEndian>>> {
        let file = object::File::parse(self.elf).ok()?;
        let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
            let data = file.section_by_name(id.name()).and_then(|s| s.uncompressed_data().ok());
            let data: &'elf [u8] = match data {
                Some(Cow::Borrowed(bytes)) => bytes,
                Some(Cow::Owned(bytes)) => bytes.leak(),
                None => &[],
            };
            Ok(gimli::EndianSlice::new(data, gimli::RunTimeEndian::default()))
        };
        let dwarf = gimli::Dwarf::load(section).ok()?;
        addr2line::Context::from_dwarf(dwarf).ok()
    }
}

/// A source path without the part that names the build machine.
fn short(path: &str) -> &str {
    ["/guest/runtime/", "/suites/src/", "/library/"]
        .iter()
        .find_map(|mark| path.rfind(mark))
        .map_or(path, |at| &path[at + 1..])
}

/// How much a line of this file says about a failed test.
fn interest(file: &str) -> u8 {
    match file.split('/').next() {
        Some("suites") => 2,
        Some("guest") => 1,
        _ => 0,
    }
}

/// Legacy symbol names end in `::h` and sixteen digits.
fn without_hash(function: &str) -> &str {
    match function.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 => name,
        _ => function,
    }
}
