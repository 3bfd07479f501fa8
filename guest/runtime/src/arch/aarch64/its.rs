//! The interrupt translation service and LPIs of a GICv3 (IHI 0069 5), with tables at fixed places in
//! [`layout::SCRATCH`].

use core::sync::atomic::{AtomicU64, Ordering};

pub use defs::aarch64::its::*;
use guest_protocol::layout::{self, aarch64::ITS};

use super::cpu::{dsb, relax};
use super::gic::{FIRST_LPI, gicr, redistributor};
use super::memory::poke;
use super::registers::{Block, Register};

const TABLE: u64 = 0x1_0000;
/// Devices.
pub const DEVICE_TABLE: u64 = layout::SCRATCH;
/// Collections.
pub const COLLECTION_TABLE: u64 = DEVICE_TABLE + TABLE;
/// Commands: one page, and so 128 of them.
pub const COMMAND_QUEUE: u64 = COLLECTION_TABLE + TABLE;
/// One byte for each LPI.
pub const CONFIG_TABLE: u64 = COMMAND_QUEUE + TABLE;
/// One bit for each interrupt, a table for each vCPU.
pub const PENDING_TABLES: u64 = CONFIG_TABLE + TABLE;
/// vCPUs that have a pending table.
pub const NR_PENDING_TABLES: u64 = 4;
/// Event translations, one [`ITT_SIZE`] for each device.
pub const ITTS: u64 = PENDING_TABLES + NR_PENDING_TABLES * TABLE;
/// Room for 512 events of 8 bytes.
pub const ITT_SIZE: u64 = 0x1000;
/// Bits of an event id.
pub const EVENT_BITS: u64 = 9;
/// Everything that the ITS keeps in memory.
pub const TABLES: core::ops::Range<u64> = layout::SCRATCH..ITTS + 4 * ITT_SIZE;
const _: () = assert!(TABLES.end <= layout::SCRATCH_END);

/// Bits of an INTID in the LPI tables.
pub const INTID_BITS: u64 = 14;
/// Bytes of the command queue.
pub const QUEUE_BYTES: u64 = 4096;

/// The control frame.
pub const FRAME: Block<gits::Its> = Block::at(ITS);

/// Where the next command goes.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Gives the ITS its tables and switches it on.
pub fn enable() {
    let of_type = |kind: u64| {
        (0..gits::NR_BASERS).map(gits::baser).find(|baser: &Register<_, u64>| {
            FRAME.read(*baser) >> gits::BASER_TYPE_SHIFT & 7 == kind
        })
    };
    for (kind, table) in
        [(gits::BASER_TYPE_DEVICES, DEVICE_TABLE), (gits::BASER_TYPE_COLLECTIONS, COLLECTION_TABLE)]
    {
        if let Some(baser) = of_type(kind) {
            FRAME.write(baser, gits::VALID | WRITE_BACK | gits::BASER_PAGE_64K | table);
        }
    }
    FRAME.write(gits::CBASER, gits::VALID | WRITE_BACK | COMMAND_QUEUE);
    NEXT.store(0, Ordering::SeqCst);
    FRAME.write(gits::CTLR, gits::CTLR_ENABLED);
}

/// Gives this vCPU's redistributor the LPI tables and switches LPIs on. `zeroed` promises that its
/// pending table has no bit set.
pub fn enable_lpis(vcpu: u64, zeroed: bool) {
    let frame = redistributor();
    frame.write(gicr::PROPBASER, CONFIG_TABLE | WRITE_BACK_LPI | (INTID_BITS - 1));
    let zeroed = if zeroed { gicr::PENDBASER_PTZ } else { 0 };
    frame.write(gicr::PENDBASER, (PENDING_TABLES + vcpu * TABLE) | WRITE_BACK_LPI | zeroed);
    dsb();
    frame.write(gicr::CTLR, gicr::CTLR_ENABLE_LPIS);
}

/// Where vCPU `vcpu`'s pending bit of `lpi` is: the byte and the bit.
pub fn pending_bit(vcpu: u64, lpi: u32) -> (u64, u8) {
    (PENDING_TABLES + vcpu * TABLE + u64::from(lpi / 8), 1 << (lpi % 8))
}

/// Writes an LPI's byte of the configuration table; the ITS need not notice before an INV.
pub fn configure(lpi: u32, priority: u8, enabled: u8) {
    poke::<u8>(CONFIG_TABLE + u64::from(lpi - FIRST_LPI), priority & LPI_PRIORITY | enabled);
    dsb();
}

/// A device, an event of it, the LPI that it becomes, and a collection of vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's names")]
pub enum Command {
    Mapd { device: u32, valid: bool },
    Mapc { collection: u16, vcpu: u64, valid: bool },
    Mapti { device: u32, event: u32, lpi: u32, collection: u16 },
    Movi { device: u32, event: u32, collection: u16 },
    Movall { from: u64, to: u64 },
    Int { device: u32, event: u32 },
    Clear { device: u32, event: u32 },
    Discard { device: u32, event: u32 },
    Inv { device: u32, event: u32 },
    Invall { collection: u16 },
    Sync { vcpu: u64 },
}

impl Command {
    /// The four doublewords (IHI 0069 5.3).
    fn words(self) -> [u64; 4] {
        let of_device = |code: u64, device: u32| code | u64::from(device) << DEVICE_SHIFT;
        let valid = |valid: bool| if valid { gits::VALID } else { 0 };
        match self {
            Self::Mapd { device, valid: v } => [
                of_device(command::MAPD, device),
                EVENT_BITS - 1,
                valid(v) | (ITTS + u64::from(device) % 4 * ITT_SIZE),
                0,
            ],
            Self::Mapc { collection, vcpu, valid: v } => {
                [command::MAPC, 0, valid(v) | vcpu << RDBASE_SHIFT | u64::from(collection), 0]
            }
            Self::Mapti { device, event, lpi, collection } => [
                of_device(command::MAPTI, device),
                u64::from(lpi) << 32 | u64::from(event),
                collection.into(),
                0,
            ],
            Self::Movi { device, event, collection } => {
                [of_device(command::MOVI, device), event.into(), collection.into(), 0]
            }
            Self::Movall { from, to } => {
                [command::MOVALL, 0, from << RDBASE_SHIFT, to << RDBASE_SHIFT]
            }
            Self::Int { device, event } => [of_device(command::INT, device), event.into(), 0, 0],
            Self::Clear { device, event } => {
                [of_device(command::CLEAR, device), event.into(), 0, 0]
            }
            Self::Discard { device, event } => {
                [of_device(command::DISCARD, device), event.into(), 0, 0]
            }
            Self::Inv { device, event } => [of_device(command::INV, device), event.into(), 0, 0],
            Self::Invall { collection } => [command::INVALL, 0, collection.into(), 0],
            Self::Sync { vcpu } => [command::SYNC, 0, vcpu << RDBASE_SHIFT, 0],
        }
    }

    /// Queues the command and waits until the ITS has taken it.
    pub fn send(self) {
        self.queue();
        ring();
    }

    /// Queues the command only.
    pub fn queue(self) {
        let at = NEXT.load(Ordering::SeqCst);
        for (i, word) in self.words().into_iter().enumerate() {
            poke(COMMAND_QUEUE + at + i as u64 * 8, word);
        }
        NEXT.store((at + COMMAND_BYTES) % QUEUE_BYTES, Ordering::SeqCst);
    }
}

/// Tells the ITS of the queued commands and waits until it has taken them.
pub fn ring() {
    let next = NEXT.load(Ordering::SeqCst);
    dsb();
    FRAME.write(gits::CWRITER, next);
    while FRAME.read(gits::CREADR) != next {
        relax();
    }
}

/// Goes on behind the commands that the ITS was given before this guest began.
pub fn resume() {
    NEXT.store(FRAME.read(gits::CWRITER), Ordering::SeqCst);
}
