//! `make fidelity` itself needs a cluster; how it judges does not, nor does the list of what it lets pass.

#[path = "../fidelity/compare.rs"]
#[allow(dead_code, reason = "shared with the runner, which prints as well")]
mod compare;

use compare::{Declared, Report, Verdict, compare};

/// The declared differences as the documentation shows them.
fn table(declared: &[Declared]) -> String {
    let cell = |text: Option<&String>| {
        text.map_or_else(|| "no such row".to_owned(), |text| format!("`{}`", text.replace('|', "\\|")))
    };
    let rows = declared.iter().map(|it| {
        let (pod, laptop) = (cell(it.in_the_pod.as_ref()), cell(it.on_the_laptop.as_ref()));
        format!("| `{}` | {pod} | {laptop} | {} |\n", it.row, it.reason)
    });
    "| row | in the pod | on the laptop | why |\n|---|---|---|---|\n".to_owned() + &rows.collect::<String>()
}

fn report(rows: &[(&str, &str)]) -> Report {
    rows.iter().map(|(row, says)| ((*row).to_owned(), (*says).to_owned())).collect()
}

fn declared(row: &str, pod: &str, laptop: &str) -> Declared {
    let (in_the_pod, on_the_laptop) = (Some(pod.to_owned()), Some(laptop.to_owned()));
    Declared { row: row.to_owned(), in_the_pod, on_the_laptop, reason: String::new() }
}

fn verdicts(pod: &[(&str, &str)], laptop: &[(&str, &str)], declared: &[Declared]) -> Vec<Verdict> {
    compare(&report(pod), &report(laptop), declared).into_iter().map(|row| row.verdict).collect()
}

#[test]
fn what_both_say_is_the_same_and_what_only_one_says_is_different() {
    assert_eq!(
        verdicts(&[("a", "x"), ("b", "x")], &[("a", "x"), ("b", "y")], &[]),
        [Verdict::Same, Verdict::Different]
    );
    assert_eq!(verdicts(&[("a", "x")], &[], &[]), [Verdict::Different]);
    assert_eq!(verdicts(&[], &[("a", "x")], &[]), [Verdict::Different]);
}

#[test]
fn a_declared_difference_passes_only_as_it_is_declared() {
    let known = [declared("a", "x", "y")];
    assert_eq!(verdicts(&[("a", "x")], &[("a", "y")], &known), [Verdict::Declared]);
    assert_eq!(verdicts(&[("a", "x")], &[("a", "z")], &known), [Verdict::Different]);
    assert_eq!(verdicts(&[("a", "x")], &[], &known), [Verdict::Different]);
}

#[test]
fn a_declared_difference_that_is_gone_is_an_error() {
    let known = [declared("a", "x", "y")];
    assert_eq!(verdicts(&[("a", "x")], &[("a", "x")], &known), [Verdict::NoLonger]);
    assert_eq!(verdicts(&[], &[], &known), [Verdict::NoLonger]);
    assert!(!Verdict::NoLonger.is_fine() && !Verdict::Different.is_fine());
}

#[test]
fn the_documentation_lists_what_is_declared_and_every_reason_is_a_sentence() {
    let declared: Vec<Declared> =
        serde_json::from_str(include_str!("../fidelity/declared.json")).expect("the list of declared differences");
    for each in &declared {
        assert!(each.reason.len() > 20 && each.reason.ends_with('.'), "{}: {:?}", each.row, each.reason);
    }
    let rows: Vec<&str> = declared.iter().map(|each| each.row.as_str()).collect();
    assert!(rows.is_sorted_by(|a, b| a < b), "not in order, or twice: {rows:?}");
    super::docs::assert_section(include_str!("../../docs/fidelity.md"), "declared", &table(&declared));
}
