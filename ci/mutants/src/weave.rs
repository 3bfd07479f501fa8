//! Many edits of one text, each behind the number of its mutant.

use std::fmt::Write as _;
use std::ops::Range;

/// What kind of text an edit replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A value: becomes a conditional expression.
    #[default]
    Expression,
    /// Whole statements without declarations: becomes an if with two arms.
    Statement,
}

/// One replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The number of its mutant.
    pub number: u32,
    /// What is replaced.
    pub span: Range<usize>,
    /// By what.
    pub replacement: String,
    /// How.
    pub kind: Kind,
}

/// Two edits that cannot be in one text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the edits of mutants {0} and {1} overlap: `{2}`")]
pub struct Overlap(pub u32, pub u32, pub String);

/// Makes what a woven file needs before its first line; the line numbers stay what they were.
#[must_use]
pub fn prelude(file: &str) -> String {
    format!(
        "extern int kvm_mutant;\n\
         #define KVM_MUTANT(n) __builtin_expect(*(volatile int *)&kvm_mutant == (n), 0)\n\
         #line 1 \"{file}\"\n"
    )
}

/// What defines the switch, at the end of one file of the kvm module.
pub const SWITCH: &str = "\n\
    int kvm_mutant;\n\
    module_param_named(mutant, kvm_mutant, int, 0644);\n";

/// Applies all changes to a text. Places may be the same or lie inside each other.
///
/// # Errors
/// Two places overlap in part, or the same place is a value for one and a statement for another.
pub fn weave(text: &str, changes: &[Change]) -> Result<String, Overlap> {
    let mut sorted: Vec<&Change> = changes.iter().collect();
    sorted.sort_by_key(|change| (change.span.start, std::cmp::Reverse(change.span.end)));
    render(text, 0..text.len(), &sorted)
}

/// The part of the text with the changes, which lie inside it, the outer ones first.
fn render(text: &str, part: Range<usize>, mut changes: &[&Change]) -> Result<String, Overlap> {
    let mut out = String::new();
    let mut at = part.start;
    while let Some(first) = changes.first() {
        let span = first.span.clone();
        let same = changes.iter().take_while(|change| change.span == span).count();
        let inside = changes.iter().take_while(|change| change.span.start < span.end).count();
        let (here, rest) = changes.split_at(inside);
        let (same, inner) = here.split_at(same);
        let wrong = inner.iter().find(|change| change.span.end > span.end);
        if let Some(wrong) = wrong.or_else(|| same.iter().find(|change| change.kind != first.kind))
        {
            return Err(Overlap(first.number, wrong.number, text[span].to_owned()));
        }
        out.push_str(&text[at..span.start]);
        out.push_str(&choice(same, &render(text, span.clone(), inner)?));
        at = span.end;
        changes = rest;
    }
    out.push_str(&text[at..part.end]);
    Ok(out)
}

/// One place: the original, or what one of the mutants puts there.
fn choice(changes: &[&Change], original: &str) -> String {
    let mut out = String::new();
    for change in changes {
        let replacement = change.replacement.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = match change.kind {
            Kind::Expression => write!(out, "(KVM_MUTANT({}) ? ({replacement}) : ", change.number),
            Kind::Statement => {
                write!(out, "{{ if (KVM_MUTANT({})) {{ {replacement} }} else ", change.number)
            }
        };
    }
    match changes.first().map(|change| change.kind) {
        Some(Kind::Statement) => {
            let _ = write!(out, "{{ {original} }}");
            changes.iter().for_each(|_| out.push_str(" }"));
        }
        _ => {
            let _ = write!(out, "({original})");
            changes.iter().for_each(|_| out.push(')'));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str, number: u32, find: &str, replacement: &str, kind: Kind) -> Change {
        let start = text.find(find).expect("the text holds it");
        Change { number, span: start..start + find.len(), replacement: replacement.into(), kind }
    }

    #[test]
    fn an_expression_becomes_a_choice() {
        let text = "if (n > MAX)";
        let woven = weave(text, &[change(text, 7, "n > MAX", "n > MAX + 1", Kind::Expression)]);
        assert_eq!(woven.as_deref(), Ok("if ((KVM_MUTANT(7) ? (n > MAX + 1) : (n > MAX)))"));
    }

    #[test]
    fn a_statement_becomes_an_if_that_an_else_may_follow() {
        let text = "if (a)\n\tf(a);\nelse\n\tg();";
        let woven = weave(text, &[change(text, 7, "f(a);", "", Kind::Statement)]);
        let expected = "if (a)\n\t{ if (KVM_MUTANT(7)) {  } else { f(a); } }\nelse\n\tg();";
        assert_eq!(woven.as_deref(), Ok(expected));
    }

    #[test]
    fn mutants_share_a_place_and_lie_inside_each_other() {
        let text = "x = a + b;";
        let changes = [
            change(text, 1, "b", "c", Kind::Expression),
            change(text, 2, "a + b", "0", Kind::Expression),
            change(text, 3, "a + b", "1", Kind::Expression),
        ];
        let expected = "x = (KVM_MUTANT(2) ? (0) : (KVM_MUTANT(3) ? (1) : \
                        (a + (KVM_MUTANT(1) ? (c) : (b)))));";
        assert_eq!(weave(text, &changes).as_deref(), Ok(expected));
    }

    #[test]
    fn places_that_cut_each_other_are_refused() {
        let text = "a + b + c";
        let cut = [
            change(text, 1, "a + b", "0", Kind::Expression),
            change(text, 2, "b + c", "0", Kind::Expression),
        ];
        assert_eq!(weave(text, &cut), Err(Overlap(1, 2, "a + b".into())));
        let kinds = [
            change(text, 1, "a + b", "0", Kind::Expression),
            change(text, 2, "a + b", "0;", Kind::Statement),
        ];
        assert_eq!(weave(text, &kinds), Err(Overlap(1, 2, "a + b".into())));
    }

    #[test]
    fn newlines_of_the_original_stay_and_those_of_the_replacement_go() {
        let text = "f(a,\n  b);\n";
        let woven = weave(text, &[change(text, 1, "f(a,\n  b);", "g();\nh();", Kind::Statement)]);
        assert_eq!(woven.map(|woven| woven.matches('\n').count()), Ok(2));
    }
}
