//! Two reports, row by row, and what is declared to differ between them: pure, and tested with the command line's tests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one place said: text by row.
pub type Report = BTreeMap<String, String>;

/// A difference that is known, and why it is there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// The row.
    pub row: String,
    /// What the pod says; absent when it has no such row.
    pub in_the_pod: Option<String>,
    /// What the container on the laptop says; absent when it has no such row.
    pub on_the_laptop: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
}

/// What to think of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Both say the same, and nothing else was declared.
    Same,
    /// They differ as declared.
    Declared,
    /// They differ, and nobody declared that, or declared it otherwise.
    Different,
    /// They were declared to differ and do not, or there is no such row.
    NoLonger,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Its name.
    pub row: String,
    /// What the pod says.
    pub in_the_pod: Option<String>,
    /// What the container on the laptop says.
    pub on_the_laptop: Option<String>,
    /// Whether that is well.
    pub verdict: Verdict,
    /// Why it is, where a difference is declared.
    pub reason: Option<String>,
}

// === impl Verdict ===

impl Verdict {
    /// Whether the table may stand with such a row.
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Same | Self::Declared)
    }

    /// As the table's last column says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Same => "yes",
            Self::Declared => "declared",
            Self::Different => "NO",
            Self::NoLonger => "DECLARED, BUT SAME",
        }
    }
}

/// Every row of either report, and every declared one, in the order of the alphabet.
pub fn compare(pod: &Report, laptop: &Report, declared: &[Declared]) -> Vec<Compared> {
    let mut names: Vec<&String> = pod.keys().chain(laptop.keys()).chain(declared.iter().map(|it| &it.row)).collect();
    names.sort();
    names.dedup();
    let rows = names.into_iter().map(|row| {
        let (in_the_pod, on_the_laptop) = (pod.get(row).cloned(), laptop.get(row).cloned());
        let known = declared.iter().find(|it| it.row == *row);
        let verdict = match known {
            Some(_) if in_the_pod == on_the_laptop => Verdict::NoLonger,
            Some(it) if it.in_the_pod == in_the_pod && it.on_the_laptop == on_the_laptop => Verdict::Declared,
            None if in_the_pod == on_the_laptop => Verdict::Same,
            _ => Verdict::Different,
        };
        let reason = known.map(|it| it.reason.clone());
        Compared { row: row.clone(), in_the_pod, on_the_laptop, verdict, reason }
    });
    rows.collect()
}
