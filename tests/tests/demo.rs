//! The main job, as a stranger runs it: no server, no key, no network.

use anyhow::ensure;
use muster_tests::{Process, checkout};

#[tokio::test]
async fn make_demo_reports_on_real_files_with_its_provenance() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for n in 0..7 {
        let text = format!("# Chapter {n}\n\nThe harvest of year {n} was good. Farmers of valley {n} stored grain.\n");
        std::fs::write(folder.path().join(format!("chapter-{n}.md")), text)?;
    }
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (input, more) = (format!("INPUT={}", at("*.md")), format!("ARGS=--data {} --out {}", at("data"), at("report.md")));
    let makefile = checkout().join("Makefile").display().to_string();
    // The binary is there already: this profile builds nothing anew.
    let args = ["-C", &checkout().display().to_string(), "-f", &makefile, "demo", "DEMO_PROFILE=dev", &input, &more];
    let mut demo = Process::start("make".as_ref(), &args, &[], folder.path(), "demo")?;
    let status = demo.ended().await?;
    let (stdout, stderr) = (demo.stdout(), demo.stderr());
    ensure!(status.success(), "{status}\n{stdout}\n{stderr}");
    let report = std::fs::read_to_string(folder.path().join("report.md"))?;
    for n in 0..7 {
        ensure!(report.contains(&format!("chapter-{n}.md")), "chapter {n} is missing:\n{report}");
    }
    ensure!(report.contains("harvest") && stdout.contains("harvest"), "{report}\n{stdout}");
    let last = format!("{stdout}{stderr}");
    for told in ["instances", "steps", "muster run show run_", "muster instance events ins_", "muster dev --data"] {
        ensure!(last.contains(told), "`{told}` is not told:\n{last}");
    }
    Ok(())
}
