//! Valid inputs, which the fuzz targets then spoil.

use guest_protocol::{MAGIC, Message, NR_ARGS, TEXT_BYTES, Verb, layout};
use zerocopy::IntoBytes;

/// Texts as owned bytes.
fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub fn policies() -> Vec<Vec<u8>> {
    let whole = include_str!("../../../../unittests.yaml");
    // A whole file takes long to read: most inputs come of pieces.
    let known = include_str!("../../../../suites/known/x86_64-kvm_pvm.yaml");
    let piece: String = known.lines().take(30).map(|line| format!("{line}\n")).collect();
    let small = "defaults: { timeout: 10s, memory: 1GiB }\ninclude: [known/a.yaml]\ngroups:\n  smoke: [\"ends::*\", \"ends::p*s\"]\n\
                 tests:\n  ends::pass: { timeout: 30s, exclusive: true, parameters: { n: 3 } }\n\
                 known_failures:\n- test: ends::pass\n  checks: [\"x y\"]\n  outcome: timeout\n  \
                 when: { backend: kvm_pvm, kernel: \">=5.10, <6.1\", module_params: { a.b: Y } }\n  reason: r\n";
    let mut all = bytes(&[small; 20]);
    all.extend(bytes(&[piece.as_str(); 4]));
    all.extend(bytes(&[&whole[..whole.find("\ntests:").unwrap()]]));
    all
}

pub fn mutants() -> Vec<Vec<u8>> {
    bytes(&[
        "- name: one\n  rule: the rule\n  stands_for: seed 01\n  expect: [\"x86_64::pio*\", a]\n  \
         edits:\n    - file: a.c\n      function: f\n      find: a & b\n      replace: \"0\"\n\
         - {name: two, rule: r, expect: [], equivalent: why}\n",
        "{\"mutant\":\"one\",\"fate\":\"killed\",\"red\":[[\"x86_64::pio::in\",\"check\"]],\"note\":\"\",\"seconds\":1.5}\n",
    ])
}

pub fn streams() -> Vec<Vec<u8>> {
    bytes(&[
        "{\"type\":\"run\",\"arch\":\"x86_64\",\"kernel\":\"6.1\",\"caps\":{\"A\":1}}\n\
         {\"type\":\"start\",\"test\":\"a\"}\n\
         {\"type\":\"result\",\"test\":\"a\",\"outcome\":\"fail\",\"failed_checks\":[{\"name\":\"n\",\"detail\":\"d\"}]}\n\
         {\"type\":\"result\",\"test\":\"b\",\"outcome\":\"timeout\",\"kvm_stats\":{\"VM\":{\"exits\":3}},\"duration_us\":7}\n\
         {\"type\":\"summary\",\"pass\":1,\"exit\":0}\n",
        "{\"type\":\"run\",\"arch\":\"aarch64\",\"kernel\":\"6.12.3\",\"started\":5}\n\
         {\"type\":\"result\",\"test\":\"a\",\"outcome\":\"pass\",\"flaky\":true,\"attempts\":2,\
         \"metrics\":[{\"name\":\"m\",\"unit\":\"ns\",\"value\":1.5}],\"log\":[\"l\"],\"groups\":[\"g\"]}\n",
    ])
}

pub fn events() -> Vec<Vec<u8>> {
    bytes(&[
        "{\"event\":\"check\",\"name\":\"n\",\"pass\":false,\"detail\":\"d\"}\n{\"event\":\"log\",\"line\":\"l\"}\n",
        "{\"event\":\"metric\",\"name\":\"n\",\"unit\":\"ns\",\"value\":1e3}\n\
         {\"event\":\"stats\",\"of\":\"VM\",\"values\":{\"exits\":3}}\n\
         {\"event\":\"verdict\",\"outcome\":\"pass\",\"reason\":\"r\",\"details\":[\"d\"]}\n",
    ])
}

/// One message of every verb.
pub fn messages() -> Vec<Vec<u8>> {
    let message = |verb: u32| {
        let mut text = [0; TEXT_BYTES];
        text[..6].copy_from_slice("a rül".as_bytes());
        Message {
            magic: MAGIC,
            verb,
            vcpu: 0,
            level: 1,
            args: std::array::from_fn(|n| n as u64),
            text_len: [3, 2, 1],
            reserved2: 0,
            text,
        }
        .as_bytes()
        .to_vec()
    };
    assert_eq!(NR_ARGS, 40, "messages have another shape now");
    (Verb::Log as u32..=Verb::Done as u32).map(message).collect()
}

/// A small payload: one segment with a guest function, a shared static and their tables.
pub fn elf() -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    let names = b"suites::a::guest_fnsuites::a::SHARED";
    let words = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let at = layout::PAYLOAD;
    let entries = words(&[at, 19, at + 64]);
    let shared = words(&[at + 19, 17, at + 128, 8]);
    let strings = b"\0trap_stubs\0trap_vectors\0".to_vec();
    let symbol = |name: u32| {
        let mut symbol = name.to_le_bytes().to_vec();
        symbol.extend([0x12, 0, 1, 0]);
        symbol.extend(words(&[at, 0]));
        symbol
    };
    let symbols = [vec![0; 24], symbol(1), symbol(12)].concat();
    let section_names =
        b"\0guest_text\0guest_entries\0guest_shared\0.symtab\0.strtab\0.shstrtab\0".to_vec();

    let contents: [(u32, u32, Vec<u8>); 6] = [
        (1, 1, [&names[..], &[0x90; 200]].concat()),
        (12, 1, entries),
        (26, 1, shared),
        (39, 2, symbols),
        (47, 3, strings),
        (55, 3, section_names),
    ];
    let mut body = Vec::new();
    let mut headers = vec![0; 64];
    for (name, kind, data) in &contents {
        body.resize(body.len().next_multiple_of(8), 0);
        let offset = HEADER + PROGRAM_HEADER + body.len() as u64;
        headers.extend(name.to_le_bytes());
        headers.extend(kind.to_le_bytes());
        let link = u64::from(if *kind == 2 { 5_u32 } else { 0 }) | 1 << 32;
        let entry_size = if *kind == 2 { 24 } else { 0 };
        headers.extend(words(&[0, at, offset, data.len() as u64, link, 8, entry_size]));
        body.extend(data);
    }
    body.resize(body.len().next_multiple_of(8), 0);

    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    elf.extend(2_u16.to_le_bytes());
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend(words(&[at + 64, HEADER, HEADER + PROGRAM_HEADER + body.len() as u64]));
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64_u16, 56, 1, 64, 7, 6].iter().flat_map(|h| h.to_le_bytes()));
    // PT_LOAD, readable and executable.
    elf.extend(words(&[1 | 5 << 32, HEADER + PROGRAM_HEADER, at, at, 236, 4096, 8]));
    elf.extend(body);
    elf.extend(headers);
    elf
}
