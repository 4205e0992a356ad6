//! An environment reaches the app byte for byte, whatever is in it.

use crate::support::{BUSYBOX, Session};
use tpdocker::settings::AppSpec;

/// The kernel's limit on one string of an environment, its end included (`MAX_ARG_STRLEN`, 32 pages).
const LONGEST: usize = 32 * 4096 - 1;

#[tokio::test]
async fn values_with_lines_quotes_equals_signs_and_control_characters_and_very_many_of_them_survive() {
    let Some(session) = Session::begin().await else { return };
    let mut env = vec![
        "LINES=first\nsecond\n".to_owned(),
        "QUOTES=\"double\" 'single' `back` $(no) ${no} \\ \\n".to_owned(),
        "EQUALS==a=b=".to_owned(),
        "EMPTY=".to_owned(),
        "WIDE=\u{fc}\u{20ac}\u{1f600}\u{85}\u{feff}".to_owned(),
        format!("CONTROL={}", (1..=31).chain([127]).map(char::from).collect::<String>()),
        "odd-name.of_a-key=yes".to_owned(),
        format!("LONGEST={}", "x".repeat(LONGEST - "LONGEST=".len())),
    ];
    env.extend((0..4000).map(|number| format!("MANY_{number}={}", "y".repeat(200))));
    let spec = AppSpec {
        image: BUSYBOX.clone(),
        command: vec!["cat".into(), "/proc/self/environ".into()],
        ..AppSpec::default()
    };
    let borrowed: Vec<&str> = env.iter().map(String::as_str).collect();
    let said = session.run(&spec, &borrowed).await.unwrap().end().await;
    assert_eq!(said.exit.code, 0);
    let mut seen: Vec<&[u8]> = said.stdout.split(|byte| *byte == 0).collect();
    seen.sort_unstable();
    for variable in &env {
        let head: String = variable.chars().take(60).collect();
        assert!(seen.binary_search(&variable.as_bytes()).is_ok(), "{head:?} is not as it was given");
    }
}
