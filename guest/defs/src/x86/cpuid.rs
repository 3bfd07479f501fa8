//! CPUID (SDM vol. 2, "CPUID—CPU Identification"; APM vol. 3, appendix E): leaves and their bits. The leaves of
//! hypervisors are in their own modules.
#![expect(missing_docs, reason = "the manual's names")]

/// Leaves.
pub mod leaf {
    pub const VENDOR: u32 = 0;
    pub const FEATURES: u32 = 1;
    pub const STRUCTURED_FEATURES: u32 = 7;
    pub const PERFORMANCE_MONITORING: u32 = 0xa;
    pub const TOPOLOGY: u32 = 0xb;
    pub const XSAVE: u32 = 0xd;
    pub const TOPOLOGY_V2: u32 = 0x1f;
    /// The first leaf of a hypervisor. Up to 0x4fff_ffff no CPU has any.
    pub const HYPERVISOR: u32 = 0x4000_0000;
    pub const EXTENDED: u32 = 0x8000_0000;
    pub const EXTENDED_FEATURES: u32 = 0x8000_0001;
    pub const POWER_MANAGEMENT: u32 = 0x8000_0007;
    pub const SVM: u32 = 0x8000_000a;
    pub const EXTENDED_PERFORMANCE_MONITORING: u32 = 0x8000_0022;
}

/// Leaves that a hypervisor has for one interface: others begin at the next 0x100 (x86/cpuid.rst).
pub const HYPERVISOR_STEP: u32 = 0x100;

/// Names of vendors in leaf 0: EBX, EDX and ECX.
pub mod vendor {
    pub const INTEL: [u8; 12] = *b"GenuineIntel";
    pub const AMD: [u8; 12] = *b"AuthenticAMD";
    pub const HYGON: [u8; 12] = *b"HygonGenuine";

    /// The name in what leaf 0 returns.
    pub const fn name([_, ebx, ecx, edx]: [u32; 4]) -> [u8; 12] {
        let (b, d, c) = (ebx.to_le_bytes(), edx.to_le_bytes(), ecx.to_le_bytes());
        [b[0], b[1], b[2], b[3], d[0], d[1], d[2], d[3], c[0], c[1], c[2], c[3]]
    }
}

/// A register that CPUID returns, as an index of [`eax, ebx, ecx, edx`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// A bit of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The manual's name.
    pub name: &'static str,
    /// EAX.
    pub leaf: u32,
    /// ECX.
    pub subleaf: u32,
    /// The register that has the bit.
    pub register: Register,
    /// Its number.
    pub bit: u32,
}

impl Feature {
    /// The bit as a mask.
    pub const fn mask(self) -> u32 {
        1 << self.bit
    }

    /// Whether the bit is set in what the leaf returned.
    pub const fn is_set(self, eax_to_edx: [u32; 4]) -> bool {
        eax_to_edx[self.register as usize] & self.mask() != 0
    }
}

/// Bits of CPUID.
pub mod feature {
    use super::Register::{Eax, Ebx, Ecx, Edx};
    use super::{Feature, leaf};

    macro_rules! features {
        ($($leaf:expr, $subleaf:literal, $register:ident: $($name:ident = $bit:literal),*;)*) => {$($(
            #[doc = stringify!($name)]
            pub const $name: Feature = Feature {
                name: stringify!($name),
                leaf: $leaf,
                subleaf: $subleaf,
                register: $register,
                bit: $bit,
            };
        )*)*};
    }

    features! {
        leaf::FEATURES, 0, Ecx: DTES64 = 2, MONITOR = 3, VMX = 5, PDCM = 15, PCID = 17, X2APIC = 21,
            TSC_DEADLINE = 24, XSAVE = 26, OSXSAVE = 27, AVX = 28;
        leaf::FEATURES, 0, Edx: MCE = 7, APIC = 9, MCA = 14, DS = 21;
        leaf::STRUCTURED_FEATURES, 0, Ebx: FSGSBASE = 0, TSC_ADJUST = 1, SMEP = 7, RTM = 11, AVX512F = 16, SMAP = 20;
        leaf::STRUCTURED_FEATURES, 0, Ecx: UMIP = 2, PKU = 3, OSPKE = 4, LA57 = 16, BUS_LOCK_DETECT = 24;
        leaf::STRUCTURED_FEATURES, 0, Edx: CORE_CAPABILITIES = 30;
        leaf::XSAVE, 1, Eax: XSAVEC = 1, XSAVES = 3;
        leaf::EXTENDED_FEATURES, 0, Ecx: SVM = 2;
        leaf::EXTENDED_FEATURES, 0, Edx: NX = 20, GBPAGES = 26, RDTSCP = 27;
        leaf::POWER_MANAGEMENT, 0, Edx: INVARIANT_TSC = 8;
        leaf::SVM, 0, Edx: NPT = 0, NRIPS = 3;
        leaf::EXTENDED_PERFORMANCE_MONITORING, 0, Eax: PERFMON_V2 = 0;
    }
}

/// The maximum of logical processors, and this one's initial APIC ID, in EBX of leaf 1.
pub const INITIAL_APIC_ID_SHIFT: u32 = 24;
