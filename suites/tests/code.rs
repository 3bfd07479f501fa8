//! Code of guests is assembled: no machine code stands in the sources as numbers.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

/// Directives of the assembler that put numbers among instructions.
const DIRECTIVES: [&str; 8] =
    [".byte", ".short", ".2byte", ".word", ".long", ".4byte", ".inst", ".insn"];
/// Parts of names that say that a constant of numbers is code.
const NAMES: [&str; 5] = ["CODE", "INSN", "OPCODE", "INSTRUCTION", "PROGRAM"];

/// A place where code stands as numbers.
#[derive(Debug, PartialEq)]
struct Place {
    file: PathBuf,
    line: usize,
}

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Whether an assembler's line has a directive with a number behind it.
fn has_numbers(text: &str) -> bool {
    DIRECTIVES.iter().any(|directive| {
        text.match_indices(directive).any(|(at, _)| {
            let rest = text[at + directive.len()..].trim_start();
            rest.starts_with(|c: char| c.is_ascii_digit())
        })
    })
}

fn is_number(token: &TokenTree) -> bool {
    let text = token.to_string();
    matches!(token, TokenTree::Literal(_)) && text.starts_with(|c: char| c.is_ascii_digit())
}

/// `[0x90, 0xf4]`, and the same with suffixes.
fn is_numbers(token: &TokenTree) -> bool {
    let TokenTree::Group(group) = token else { return false };
    let numbers = group.stream().into_iter().filter(is_number).count();
    numbers > 0 && group.stream().into_iter().all(|t| is_number(&t) || t.to_string() == ",")
}

fn find(tokens: TokenStream, file: &Path, found: &mut Vec<Place>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let place = || Place { file: file.into(), line: token.span().start().line };
        match token {
            TokenTree::Group(group) => find(group.stream(), file, found),
            TokenTree::Literal(literal) if has_numbers(&literal.to_string()) => {
                found.push(place());
            }
            // `const NAME: [u8; 2] = [0x90, 0xf4];`
            TokenTree::Ident(name) if NAMES.iter().any(|part| name.to_string().contains(part)) => {
                let value = tokens[at..].iter().skip(1).take(6);
                let is_typed = tokens.get(at + 1).is_some_and(|t| t.to_string() == ":");
                if is_typed && value.into_iter().skip(2).any(is_numbers) {
                    found.push(place());
                }
            }
            _ => {}
        }
    }
}

fn of(text: &str) -> usize {
    let mut found = Vec::new();
    find(text.parse().expect("Rust"), Path::new("here"), &mut found);
    found.len()
}

#[test]
fn numbers_are_recognized_as_code() {
    for code in [
        r#"guest_asm! { RETURNS, bits64: ".byte 0xc3" }"#,
        r#"asm!("nop; .long 0xd503201f")"#,
        "const RET_INSN: [u8; 1] = [0xc3];",
        "const CODE: [u8; 2] = [0x0f, 0x0b];",
        "static HALT_CODE: &[u8] = &[0xf4];",
    ] {
        assert_eq!(of(code), 1, "{code}");
    }
    for other in [
        r#"guest_asm! { RETURNS, bits64: "ret", ".balign 16" }"#,
        "const ERROR_CODE: u32 = 0x18;",
        "const DATA: [u8; 2] = [0x0f, 0x0b];",
    ] {
        assert_eq!(of(other), 0, "{other}");
    }
}

#[test]
fn no_machine_code_stands_as_numbers() {
    let mut files = Vec::new();
    source_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 50, "{} source files", files.len());
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        find(text.parse().expect("Rust"), &file, &mut found);
    }
    assert!(found.is_empty(), "assemble it with guest_asm! instead: {found:#?}");
}
