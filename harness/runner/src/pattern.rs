//! Patterns that mean several tests.

/// A glob: `*` is anything, `?` any one character, `[…]` one of a set. The pattern's own text
/// matches too, since a test's parameters stand in brackets.
#[derive(Clone, Debug)]
pub struct Glob {
    pattern: glob::Pattern,
    /// Length of what stands before the first special character: most names differ there already.
    literal: usize,
}

impl Glob {
    /// Reads the pattern.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where.
    pub fn new(pattern: &str) -> Result<Self, glob::PatternError> {
        let literal = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
        glob::Pattern::new(pattern).map(|pattern| Self { pattern, literal })
    }

    /// Whether it means `name`, as a whole.
    pub fn is_match(&self, name: &str) -> bool {
        let text = self.pattern.as_str();
        name.starts_with(&text[..self.literal]) && (text == name || self.pattern.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_anchored() {
        let matches = |pattern: &str, name: &str| Glob::new(pattern).unwrap().is_match(name);
        assert!(matches("x86_64::*", "x86_64::pio::in"));
        assert!(matches("*pio*", "x86_64::pio::in"));
        assert!(!matches("pio*", "x86_64::pio::in"));
        assert!(matches("a.b", "a.b") && !matches("a.b", "axb"));
        assert!(matches("size[4]", "size[4]") && matches("size[4]", "size4"));
        assert!(matches("in_[bw]", "in_w") && !matches("in_[!bw]", "in_w"));
    }
}
