//! Saved state as named pieces, to tell what is different of two.

/// Named pieces of bytes, in the order of saving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(Vec<(String, Vec<u8>)>);

impl Parts {
    /// Adds a piece.
    pub fn add(&mut self, name: impl Into<String>, bytes: &[u8]) {
        self.0.push((name.into(), bytes.to_vec()));
    }

    /// Adds a number.
    pub fn number(&mut self, name: impl Into<String>, value: u64) {
        self.add(name, &value.to_le_bytes());
    }

    /// Adds all pieces of `others`, named after whose they are.
    pub(super) fn append(&mut self, whose: &str, others: Self) {
        self.0
            .extend(others.0.into_iter().map(|(name, bytes)| (format!("{whose}: {name}"), bytes)));
    }

    /// What is not the same in `other`: a sentence each. `runs_on` says of which pieces that is as it should
    /// be.
    pub fn differences(&self, other: &Self, runs_on: impl Fn(&str) -> bool) -> Vec<String> {
        let find = |parts: &Self, name: &str| {
            parts.0.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.clone())
        };
        let mut list = Vec::new();
        for (name, was) in self.0.iter().filter(|(name, _)| !runs_on(name)) {
            match find(other, name) {
                None => list.push(format!("{name}: gone")),
                Some(is) if is != *was => list.push(format!("{name}: {}", difference(was, &is))),
                Some(_) => {}
            }
        }
        for (name, _) in other.0.iter().filter(|(name, _)| !runs_on(name)) {
            if find(self, name).is_none() {
                list.push(format!("{name}: new"));
            }
        }
        list
    }
}

/// Short values whole, longer ones from the first byte that differs on.
fn difference(was: &[u8], is: &[u8]) -> String {
    if was.len() != is.len() {
        return format!("{} bytes, then {}", was.len(), is.len());
    }
    if let (Ok(was), Ok(is)) = (was.try_into(), is.try_into()) {
        return format!("{:#x}, then {:#x}", u64::from_le_bytes(was), u64::from_le_bytes(is));
    }
    let at = was.iter().zip(is).position(|(a, b)| a != b).unwrap_or(0);
    let end = was.len().min(at + 16);
    format!("from byte {at:#x} on {:02x?}, then {:02x?}", &was[at..end], &is[at..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let mut was = Parts::default();
        was.number("clock", 1);
        was.number("pc", 2);
        was.add("xsave", &[0; 20]);
        was.add("lapic", &[1]);
        let mut is = Parts::default();
        is.number("clock", 9);
        is.number("pc", 3);
        is.add("xsave", &[[0; 18].as_slice(), &[7, 8]].concat());
        is.add("nested", &[]);
        assert_eq!(
            was.differences(&is, |name| name == "clock"),
            [
                "pc: 0x2, then 0x3",
                "xsave: from byte 0x12 on [00, 00], then [07, 08]",
                "lapic: gone",
                "nested: new",
            ]
        );
        assert!(was.differences(&was, |_| false).is_empty());
    }
}
