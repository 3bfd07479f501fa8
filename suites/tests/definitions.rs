//! A number that `guest/defs` names is not written again elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use defs::aarch64::{psci, smccc};
use defs::arch::{Arch, IDS};
use defs::x86::cpuid::leaf;
use regex::Regex;
use suites as _;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Where numbers are taken from `guest/defs`.
const USERS: [&str; 3] = ["guest/runtime/src", "harness/vm/src", "suites/src"];
/// Fewer of them would mean that definitions are not found any more.
const LEAST: usize = 170;

/// Where such a number is something else.
const OTHERS: [(&str, u64); 2] = [
    // Bytes at which instructions access an MMIO device, and an operand of theirs.
    ("suites/src/x86_64/exits/mmio.rs", 0x300),
    ("suites/src/x86_64/exits/mmio.rs", 0x8000_0001),
];

/// More numbers: round ones that are no others', and computed ones that are easily written as such.
const MORE: [(Arch, &str, u32); 9] = [
    (Arch::X86_64, "HYPERVISOR or GUEST_OS_ID", leaf::HYPERVISOR),
    (Arch::Aarch64, "PSCI_VERSION", psci::function::PSCI_VERSION),
    (Arch::Aarch64, "CPU_ON", psci::function::CPU_ON),
    (Arch::Aarch64, "AFFINITY_INFO", psci::function::AFFINITY_INFO),
    (Arch::Aarch64, "SYSTEM_SUSPEND", psci::function::SYSTEM_SUSPEND),
    (Arch::Aarch64, "SMCCC_ARCH_FEATURES", smccc::function::ARCH_FEATURES),
    (Arch::Aarch64, "TRNG_RND64", smccc::function::TRNG_RND64),
    (Arch::Aarch64, "PV_TIME_FEATURES", smccc::function::PV_TIME_FEATURES),
    (Arch::Aarch64, "VENDOR_HYP_UID", smccc::function::VENDOR_HYP_UID),
];

/// What is no code: strings and comments.
static QUOTED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""(?:[^"\\]|\\.)*"|//.*"#).unwrap());
/// A hexadecimal number.
static LITERAL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b0x([0-9a-fA-F_]+?)(?:_?[ui](?:8|16|32|64|128|size))?\b").unwrap()
});

/// The Rust files below a folder, with their paths from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(ROOT).join(folder)).unwrap().map(Result::unwrap) {
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            found.extend(sources(&path));
        } else if path.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push((path, text));
        }
    }
    found
}

fn number(hex: &str) -> u64 {
    u64::from_str_radix(&hex.replace('_', ""), 16).unwrap_or(0)
}

/// Whether a number says by itself what it is: not small, not a mask, not a round size.
fn is_distinctive(number: u64) -> bool {
    let is_mask = number & number.wrapping_add(1) == 0;
    number >= 0x100 && !is_mask && !number.is_power_of_two()
}

/// The numbers that one architecture's definitions state, with their names.
fn defined(arch: Arch) -> BTreeMap<u64, String> {
    let folder = if arch == Arch::X86_64 { "x86" } else { arch.id() };
    let definition = Regex::new(r"(?m)(\w+)(?:: [\w:]+)? = 0x([0-9a-fA-F_]+);").unwrap();
    let files = sources(&format!("guest/defs/src/{folder}"));
    let stated = files.iter().flat_map(|(_, text)| definition.captures_iter(text));
    let mut numbers: BTreeMap<_, _> = stated.map(|d| (number(&d[2]), d[1].to_owned())).collect();
    numbers.retain(|number, _| is_distinctive(*number));
    let more = MORE.into_iter().filter(|(of, ..)| *of == arch);
    numbers.extend(more.map(|(_, name, number)| (number.into(), name.to_owned())));
    numbers
}

/// The architecture whose folder a file is in.
fn architecture(path: &str) -> Option<&str> {
    path.split('/').find(|part| IDS.contains(part))
}

/// The hexadecimal numbers of a line of code.
fn literals(line: &str) -> Vec<u64> {
    let code = QUOTED.replace_all(line, "");
    LITERAL.captures_iter(&code).map(|found| number(&found[1])).collect()
}

#[test]
fn no_number_of_the_definitions_is_written_again() {
    let (mut all, mut again) = (0, Vec::new());
    for arch in Arch::ALL {
        let numbers = defined(arch);
        all += numbers.len();
        for (path, text) in USERS.into_iter().flat_map(sources) {
            if architecture(&path).is_some_and(|of| of != arch.id()) {
                continue;
            }
            for (line, number) in (1..)
                .zip(text.lines())
                .flat_map(|(nr, line)| literals(line).into_iter().map(move |n| (nr, n)))
            {
                let Some(name) = numbers.get(&number) else { continue };
                if !OTHERS.contains(&(&path, number)) {
                    again.push(format!("{path}:{line}: {number:#x} is {arch}'s {name}"));
                }
            }
        }
    }
    assert!(again.is_empty(), "written again:\n{}", again.join("\n"));
    assert!(all >= LEAST, "only {all} definitions are found");
}

#[test]
fn a_number_is_found_however_it_is_written() {
    assert_eq!(
        literals("wrmsr(0x4b56_4d01, 0x10u64, 0xC000_0080_u32); // 0x123"),
        [0x4b56_4d01, 0x10, 0xc000_0080]
    );
    assert_eq!(literals(r#"check!("0x277 is kept", 5, 0xFFE8)"#), [0xffe8]);
    assert!(!is_distinctive(0x80) && !is_distinctive(0xffff) && !is_distinctive(0x1_0000));
    assert!(is_distinctive(0x277) && is_distinctive(0xc000_0080));
}
