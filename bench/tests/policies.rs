//! Every policy is measured, and `sticky` moves no address that can stay: small counts, the whole way.

use std::process::Command;

#[test]
fn every_policy_has_its_shares_and_sticky_moves_nobody_in_vain() {
    let output = Command::new(env!("CARGO_BIN_EXE_everycore-bench"))
        .args(["policies", "--connections", "300", "--rounds", "1", "--addresses", "200"])
        .output()
        .expect("the bench can be started");
    let (said, problem) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{problem}");
    let cells = |name: &str| -> Vec<String> {
        let row = said.lines().find(|line| line.starts_with(&format!("| {name} |")));
        let row = row.unwrap_or_else(|| panic!("no row '{name}' in\n{said}"));
        row.split('|').skip(2).map(|cell| cell.trim().to_owned()).collect()
    };
    for policy in ["round-robin", "least", "sticky", "shared", "raw-shared", "reuseport", "raw-reuseport"] {
        let shares = &cells(&format!("`{policy}`"))[..4];
        for (share, least) in shares.iter().zip([50.0, 50.0, 12.5, 12.5]) {
            let share: f64 = share.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
            assert!((least..=100.0).contains(&share), "{policy}: {shares:?}");
        }
        // The kernel may give all to one, whoever takes turns may not.
        let one: f64 = shares[0].split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
        assert!(policy != "round-robin" || one < 75.0, "{shares:?}");
    }
    for event in ["a worker is killed and replaced", "all are reloaded", "(against the start)"] {
        assert_eq!(cells(event)[..2], ["0.0 %", "0.0 %"], "{event}");
    }
    let moved = cells("the ninth is taken away");
    assert_eq!(moved[0], moved[1], "those of the ninth, and nobody else");
}
