//! As much of C's lexical grammar as finding a function and an expression takes.

use std::ops::Range;

/// A token: where it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its bytes in the text.
    pub span: Range<usize>,
    /// Whether it is the first character of its line.
    pub starts_line: bool,
}

/// Operators of more than one character, the longest first.
const OPERATORS: [&str; 23] = [
    "...", "<<=", ">>=", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=",
    "-=", "*=", "/=", "%=", "&=", "|=", "^=", "##",
];

/// The tokens of a text, without white space, comments and preprocessor lines.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let starts_line = at == 0 || text.as_bytes()[at - 1] == b'\n';
        let length = match rest.as_bytes()[0] {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if rest.starts_with("/*") => {
                at += rest[2..].find("*/").map_or(rest.len(), |end| end + 4);
                continue;
            }
            b'/' if rest.starts_with("//") => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            b'#' if is_first_of_line(text, at) => {
                at += directive_length(rest);
                continue;
            }
            quote @ (b'"' | b'\'') => quoted_length(rest, quote),
            b if is_word(b) => rest.bytes().take_while(|&b| is_word(b)).count(),
            _ => OPERATORS.iter().find(|op| rest.starts_with(**op)).map_or_else(
                || rest.chars().next().map_or(1, char::len_utf8),
                |operator| operator.len(),
            ),
        };
        found.push(Token { span: at..at + length, starts_line });
        at += length;
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_first_of_line(text: &str, at: usize) -> bool {
    text[..at].bytes().rev().take_while(|&b| b != b'\n').all(|b| b.is_ascii_whitespace())
}

/// A preprocessor line with the lines that continue it.
fn directive_length(rest: &str) -> usize {
    let mut length = 0;
    for line in rest.split_inclusive('\n') {
        length += line.len();
        if !line.trim_end_matches(['\n', '\r']).ends_with('\\') {
            break;
        }
    }
    length
}

fn quoted_length(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        tokens(text).into_iter().map(|token| &text[token.span]).collect()
    }

    #[test]
    fn splits_words_and_operators() {
        assert_eq!(
            words("a->b<<=c[0x1f]!=-1"),
            ["a", "->", "b", "<<=", "c", "[", "0x1f", "]", "!=", "-", "1"]
        );
    }

    #[test]
    fn leaves_out_comments_and_preprocessor_lines() {
        let text = "a /* b\n c */ d // e\n#if X && \\\n  Y\n  # define Z {\nf # g";
        assert_eq!(words(text), ["a", "d", "f", "#", "g"]);
    }

    #[test]
    fn keeps_quoted_text_whole() {
        assert_eq!(
            words(r#"f("a /* \" }", '\'', '"')"#),
            ["f", "(", r#""a /* \" }""#, ",", r"'\''", ",", "'\"'", ")"]
        );
    }

    #[test]
    fn an_open_quote_or_comment_ends_with_the_text() {
        assert_eq!(words("a \"b"), ["a", "\"b"]);
        assert_eq!(words("a /* b"), ["a"]);
    }
}
