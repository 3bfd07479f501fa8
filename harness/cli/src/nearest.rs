//! "Did you mean": the valid name that is nearest to a wrong one.

/// What is this near is meant.
const NEAR: f64 = 0.6;
/// A name that something goes on with is meant from this length on.
const LONG: usize = 4;

/// The nearest of `names` to `wrong`, if any is near enough to be meant.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let last = |name: &'a str| name.rsplit("::").next().unwrap_or(name);
    let score = |name: &str| match name.len() >= LONG && wrong.starts_with(name) {
        true => strsim::normalized_damerau_levenshtein(wrong, name).max(NEAR),
        false => strsim::normalized_damerau_levenshtein(wrong, name),
    };
    names
        .into_iter()
        .map(|name| {
            // Whoever leaves the path away means the last part.
            let part = if wrong.contains("::") { 0.0 } else { score(last(name)) };
            (score(name).max(part), name)
        })
        .filter(|(score, _)| *score >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// `unknown KIND `wrong`; did you mean `near`?`
pub fn unknown<'a>(kind: &str, wrong: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(wrong, names) {
        Some(near) => format!("unknown {kind} `{wrong}`; did you mean `{near}`?"),
        None => format!("unknown {kind} `{wrong}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_find_their_name() {
        let names = ["x86_64::pio::in_byte", "x86_64::mmio::read"];
        assert_eq!(nearest("x86_64::pio::in_bite", names), Some(names[0]));
        assert_eq!(nearest("in_bite", names), Some(names[0]));
        assert_eq!(nearest("quux", names), None);
        assert_eq!(nearest("x86_64::nonesuch::*", names), None);
        assert_eq!(nearest("x86_64::pio::in_byte - a check", names), Some(names[0]));
    }
}
