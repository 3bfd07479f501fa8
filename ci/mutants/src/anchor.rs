//! Anchors: an expression found exactly once in a function, whatever its white space.

use std::ops::Range;

use crate::lexer::{Token, tokens};

/// Why an anchor holds nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// The function is not defined there.
    #[error("no function {function}; functions with names like it: {near}")]
    NoFunction {
        /// The function.
        function: String,
        /// Names that come near.
        near: String,
    },
    /// The expression is not in the function.
    #[error(
        "`{find}` is not in {function} (lines {first}..{last}); the longest match is {matched} of {wanted} tokens{place}"
    )]
    NotFound {
        /// The function.
        function: String,
        /// What was looked for.
        find: String,
        /// The function's first line.
        first: usize,
        /// The function's last line.
        last: usize,
        /// Tokens of the longest match.
        matched: usize,
        /// Tokens of the expression.
        wanted: usize,
        /// The line of the longest match.
        place: String,
    },
    /// The expression is in the function more than once.
    #[error("`{find}` is in {function} {count} times: {places}")]
    Ambiguous {
        /// The function.
        function: String,
        /// What was looked for.
        find: String,
        /// How often it was found.
        count: usize,
        /// The lines.
        places: String,
    },
    /// Nothing to look for.
    #[error("the expression to find is empty")]
    Empty,
}

/// A text whose functions can be found.
#[derive(Debug)]
pub struct Source<'a> {
    text: &'a str,
    tokens: Vec<Token>,
}

impl<'a> Source<'a> {
    /// Reads the text.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, tokens: tokens(text) }
    }

    /// The bytes of the one place in the function that reads like `find`.
    ///
    /// # Errors
    /// There is no such function, or not exactly one such place; the error tells what was found.
    pub fn find(&self, function: &str, find: &str) -> Result<Range<usize>, AnchorError> {
        let wanted: Vec<_> = tokens(find).into_iter().map(|token| &find[token.span]).collect();
        if wanted.is_empty() {
            return Err(AnchorError::Empty);
        }
        let bodies = self.bodies(function);
        if bodies.is_empty() {
            let near = self.names_like(function);
            return Err(AnchorError::NoFunction { function: function.to_owned(), near });
        }
        let mut places = Vec::new();
        let mut best = (0, 0);
        for body in &bodies {
            for at in body.clone() {
                let window = &self.tokens[at..body.end];
                let same = window
                    .iter()
                    .zip(&wanted)
                    .take_while(|(token, word)| self.word(token) == **word);
                let matched = same.count();
                if matched == wanted.len() {
                    places.push(window[0].span.start..window[matched - 1].span.end);
                } else if matched > best.0 {
                    best = (matched, window[0].span.start);
                }
            }
        }
        let found = || (function.to_owned(), wanted.join(" "));
        match places.as_slice() {
            [place] => Ok(place.clone()),
            [] => {
                let (function, find) = found();
                let edge = |at: usize| self.line(self.tokens[at].span.start);
                Err(AnchorError::NotFound {
                    function,
                    find,
                    first: edge(bodies[0].start),
                    last: edge(bodies[0].end.saturating_sub(1)),
                    matched: best.0,
                    wanted: wanted.len(),
                    place: if best.0 == 0 {
                        String::new()
                    } else {
                        format!(", {}", self.quote(best.1))
                    },
                })
            }
            several => {
                let (function, find) = found();
                let places: Vec<_> = several.iter().map(|place| self.quote(place.start)).collect();
                Err(AnchorError::Ambiguous {
                    function,
                    find,
                    count: several.len(),
                    places: places.join("; "),
                })
            }
        }
    }

    fn word(&self, token: &Token) -> &'a str {
        &self.text[token.span.clone()]
    }

    /// The definitions of a function, as token ranges from its opening to its closing brace. In
    /// the kernel's style both braces stand in the first column.
    fn bodies(&self, function: &str) -> Vec<Range<usize>> {
        let mut bodies = Vec::new();
        for at in 0..self.tokens.len() {
            if self.word(&self.tokens[at]) != function {
                continue;
            }
            let Some(open) = self.body_after(at) else { continue };
            let rest = &self.tokens[open..];
            let length = rest.iter().position(|token| token.starts_line && self.word(token) == "}");
            bodies.push(open..open + length.map_or(rest.len(), |close| close + 1));
        }
        bodies
    }

    /// The opening brace of the definition whose name stands at this token, if it is one.
    fn body_after(&self, name: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for (at, token) in self.tokens.iter().enumerate().skip(name + 1) {
            match self.word(token) {
                "(" => depth += 1,
                ")" => depth = depth.checked_sub(1)?,
                "{" if depth == 0 => return (token.starts_line && at > name + 1).then_some(at),
                ";" | "}" if depth == 0 => return None,
                _ if at == name + 1 => return None,
                _ => {}
            }
        }
        None
    }

    fn names_like(&self, function: &str) -> String {
        let parts: Vec<_> = function.split('_').filter(|part| part.len() > 3).collect();
        let mut names: Vec<(usize, &str)> = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            let word = self.word(token);
            let likeness = parts.iter().filter(|part| word.contains(**part)).count();
            if likeness > 0
                && !names.iter().any(|(_, name)| *name == word)
                && self.body_after(at).is_some()
            {
                names.push((likeness, word));
            }
        }
        names.sort_by_key(|(likeness, _)| std::cmp::Reverse(*likeness));
        let names: Vec<_> = names.into_iter().take(5).map(|(_, name)| name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    fn quote(&self, at: usize) -> String {
        let start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[start..].lines().next().unwrap_or_default().trim();
        format!("line {}: `{line}`", self.line(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
static int limit(struct set *set);

static int limit(struct set *set)
{
	/* set->n > MAX */
	if (set->n
	    > MAX)
		return -E2BIG;
	while (set->n) {
		set->n--;
	}
	return limit_of(set->name > MAX);
}

#define limit_of(x) \\
{ set->n > MAX }

int __must_check other_limit(int n) __releases(lock)
{
	limit(n);
	if (n > 1 && n > 1)
		return 1;
	return 0;
}
";

    fn find(function: &str, what: &str) -> Result<&'static str, AnchorError> {
        Source::new(TEXT).find(function, what).map(|place| &TEXT[place])
    }

    #[test]
    fn finds_an_expression_whatever_its_white_space() {
        assert_eq!(find("limit", "set->n>MAX"), Ok("set->n\n\t    > MAX"));
        assert_eq!(find("limit", "return -  E2BIG ;"), Ok("return -E2BIG;"));
    }

    #[test]
    fn whole_tokens_only() {
        assert_eq!(find("limit", "set->name > MAX"), Ok("set->name > MAX"));
        assert!(matches!(find("limit", "et->n > MAX"), Err(AnchorError::NotFound { .. })));
    }

    #[test]
    fn a_declaration_or_call_is_no_definition() {
        assert!(matches!(find("limit_of", "n"), Err(AnchorError::NoFunction { .. })));
        assert_eq!(find("other_limit", "limit(n)"), Ok("limit(n)"));
    }

    #[test]
    fn a_missing_function_is_told_with_its_neighbours() {
        let error = find("my_limit", "n").expect_err("must fail").to_string();
        assert!(error.contains("my_limit") && error.contains("limit, other_limit"), "{error}");
    }

    #[test]
    fn a_missing_expression_is_told_with_the_nearest_line() {
        let error = find("limit", "set->n > MIN").expect_err("must fail").to_string();
        assert!(error.contains("lines 4..13"), "{error}");
        assert!(error.contains("4 of 5 tokens, line 6: `if (set->n`"), "{error}");
    }

    #[test]
    fn an_ambiguous_expression_is_told_with_every_line() {
        let error = find("other_limit", "n > 1").expect_err("must fail").to_string();
        assert!(error.contains("2 times") && error.matches("line 21").count() == 2, "{error}");
    }

    #[test]
    fn an_empty_expression_is_refused() {
        assert_eq!(find("limit", " /* nothing */ "), Err(AnchorError::Empty));
    }
}
