//! TAP (versions 12 to 14) and the kernel's KTAP, as other suites' programs print them. Nothing is read
//! before the line that names the version: other output may look alike.

use super::check;
use crate::tally::Tally;

/// Lines of a failed point's detail.
const MOST_DETAIL: usize = 20;

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Tap {
    begun: bool,
    planned: Option<usize>,
    /// Points of the outermost level.
    seen: usize,
    points: Vec<Point>,
    /// Remarks since the last point, which the next one is about.
    remarks: Vec<String>,
    /// Why the program gave up.
    pub bailed_out: Option<String>,
    /// Why something was skipped.
    pub skipped: Option<String>,
}

#[derive(Debug)]
struct Point {
    indent: usize,
    name: String,
    state: State,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Held,
    Failed,
    /// Skipped, or known to fail: nothing is said about KVM.
    Silent,
}

impl Tap {
    /// Takes a line in, if it is one of TAP.
    pub(super) fn take(&mut self, line: &str) -> bool {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let body = body.trim_end();
        if let Some(version) =
            body.strip_prefix("TAP version ").or(body.strip_prefix("KTAP version "))
        {
            let is_version = version.parse::<u32>().is_ok();
            self.begun |= is_version;
            return is_version;
        }
        if !self.begun {
            return false;
        }
        if body.starts_with("Bail out!") {
            self.bailed_out = Some(body.to_owned());
            return true;
        }
        if let Some(remark) = body.strip_prefix('#') {
            if self.remarks.len() < MOST_DETAIL {
                self.remarks.push(remark.trim().to_owned());
            }
            return true;
        }
        self.plan(indent, body) || self.point(indent, body)
    }

    fn plan(&mut self, indent: usize, body: &str) -> bool {
        let Some(rest) = body.strip_prefix("1..") else { return false };
        let (number, directive) = rest.split_once('#').unwrap_or((rest, ""));
        let Ok(planned) = number.trim().parse() else { return false };
        if indent == 0 {
            self.planned = Some(planned);
            if let Some(why) = skip(directive) {
                self.skipped = Some(why);
            }
        }
        true
    }

    fn point(&mut self, indent: usize, body: &str) -> bool {
        let (ok, rest) = match (body.strip_prefix("ok"), body.strip_prefix("not ok")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return false,
        };
        if !rest.is_empty() && !rest.starts_with(' ') {
            return false;
        }
        let rest = rest.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, rest) = rest.split_at(digits);
        let (name, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
        let name = name.trim().trim_start_matches("- ").trim();
        let kind = directive.trim_start().to_ascii_uppercase();
        let is_known = ["TODO", "XFAIL"].iter().any(|known| kind.starts_with(known));
        let why = skip(directive);
        let state = match ok {
            _ if why.is_some() || is_known => State::Silent,
            true => State::Held,
            false => State::Failed,
        };
        // The kernel's selftests name a skipped test behind the directive.
        let name = match (name, &why) {
            ("", Some(why)) if !why.is_empty() => why.clone(),
            ("", _) => format!("point {number} of the program's output"),
            (name, _) => name.to_owned(),
        };
        if let Some(why) = why {
            self.skipped.get_or_insert_with(|| if why.is_empty() { name.clone() } else { why });
        }
        let detail = std::mem::take(&mut self.remarks).join("\n");
        self.seen += usize::from(indent == 0);
        self.add(Point { indent, name, state, detail });
        true
    }

    /// Adds a point. Those that stood further in are its parts, and say what it says.
    fn add(&mut self, point: Point) {
        let first = self.points.iter().rposition(|part| part.indent <= point.indent);
        let parts = &mut self.points[first.map_or(0, |first| first + 1)..];
        for part in &mut *parts {
            part.name = format!("{}: {}", point.name, part.name);
            part.indent = point.indent;
        }
        let is_sum = !parts.is_empty()
            && (point.state != State::Failed || parts.iter().any(|p| p.state == State::Failed));
        if !is_sum {
            self.points.push(point);
        }
    }

    /// Reports each point as a check; gives how many say something about KVM.
    pub(super) fn report(&mut self, tally: &mut Tally) -> usize {
        let telling = self.points.drain(..).filter(|point| point.state != State::Silent);
        telling
            .map(|point| check(tally, &point.name, point.state == State::Held, point.detail))
            .count()
    }

    /// What is wrong with the output as a whole.
    pub(super) fn complaint(&self) -> Option<String> {
        match self.planned {
            _ if !self.begun => None,
            None => Some("the program printed no plan".to_owned()),
            Some(planned) if planned != self.seen => {
                Some(format!("the program planned {planned} points and printed {}", self.seen))
            }
            Some(_) => None,
        }
    }
}

/// The reason of a skip, if a directive is one.
fn skip(directive: &str) -> Option<String> {
    let directive = directive.trim();
    let is_skip = directive.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("skip"));
    is_skip.then(|| {
        let rest = directive[4..].trim_start_matches(|c: char| c.is_ascii_alphabetic());
        rest.trim_start_matches(':').trim().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name and, where it failed, detail.
    type Check = (String, Option<String>);

    /// Checks, in order of their names, and what is wrong.
    fn read(text: &str) -> (Vec<Check>, Option<String>, Tap) {
        let (mut tap, mut tally) = (Tap::default(), Tally::default());
        for line in text.lines() {
            tap.take(line);
        }
        tap.report(&mut tally);
        (tally.checks.into_iter().collect(), tap.complaint(), tap)
    }

    fn held(name: &str) -> Check {
        (name.to_owned(), None)
    }

    fn failed(name: &str, detail: &str) -> Check {
        (name.to_owned(), Some(detail.to_owned()))
    }

    #[test]
    fn points_are_checks() {
        let (checks, complaint, _) = read(
            "noise\nTAP version 13\n1..5\n# a.c:7:two:Expected 1 (1) == 2 (2)\nnot ok 2 two\n\
             ok 1 - one\nok 3 # SKIP no such CPU\nnot ok 4 four # TODO later\nok 5\n",
        );
        let wanted = [
            held("one"),
            held("point 5 of the program's output"),
            failed("two", "a.c:7:two:Expected 1 (1) == 2 (2)"),
        ];
        assert_eq!((checks.as_slice(), complaint), (&wanted[..], None));
    }

    #[test]
    fn nested_points_bear_their_parents_name() {
        let (checks, complaint, _) = read(
            "KTAP version 1\n1..2\n  KTAP version 1\n  1..2\n  ok 1 a\n  not ok 2 b\nnot ok 1 first\n\
             \x20   1..1\n    ok 1 c\nok 2 - second\n",
        );
        let wanted = [held("first: a"), failed("first: b", ""), held("second: c")];
        assert_eq!((checks.as_slice(), complaint), (&wanted[..], None));
    }

    #[test]
    fn output_that_breaks_off_is_noticed() {
        let complaint = |text| read(text).1.unwrap_or_default();
        let all = "TAP version 13\n1..2\nok 1 a\n";
        assert_eq!(complaint(all), "the program planned 2 points and printed 1");
        assert_eq!(complaint("TAP version 13\nok 1 a\n"), "the program printed no plan");
        assert_eq!(complaint("ok 1 a\n"), "", "no TAP at all");
    }

    #[test]
    fn reasons_are_kept() {
        let (checks, _, tap) = read("TAP version 13\n1..0 # SKIP KVM_CAP_X is missing\n");
        assert_eq!((checks, tap.skipped.as_deref()), (vec![], Some("KVM_CAP_X is missing")));
        let (_, _, tap) = read("TAP version 13\nBail out! no memory\n");
        assert_eq!(tap.bailed_out.as_deref(), Some("Bail out! no memory"));
    }

    #[test]
    fn other_output_is_not_taken() {
        let mut tap = Tap::default();
        for line in ["ok 1 a", "1..2", "# remark", "TAP version x"] {
            assert!(!tap.take(line), "{line}");
        }
        assert!(tap.take("TAP version 14"));
        for line in ["okay", "not okay", "1..x", "oops"] {
            assert!(!tap.take(line), "{line}");
        }
    }
}
