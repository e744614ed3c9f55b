//! The main job, as a stranger runs it: no server, no key, no network.

use anyhow::ensure;
use muster_tests::{Process, muster_binary};

#[tokio::test]
async fn the_demo_reports_on_real_files_with_its_provenance() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for n in 0..7 {
        let text = format!("# Chapter {n}\n\nThe harvest of year {n} was good. Farmers of valley {n} stored grain.\n");
        std::fs::write(folder.path().join(format!("chapter-{n}.md")), text)?;
    }
    let args = ["demo", "--input", "*.md", "--data", "data", "--out", "report.md"];
    let mut demo = Process::start(&muster_binary(), &args, &[], folder.path(), "demo")?;
    let status = demo.ended().await?;
    ensure!(status.success(), "{status}\n{}\n{}", demo.stdout(), demo.stderr());
    let report = std::fs::read_to_string(folder.path().join("report.md"))?;
    for n in 0..7 {
        ensure!(report.contains(&format!("chapter-{n}.md")), "chapter {n} is missing:\n{report}");
    }
    ensure!(report.contains("harvest"), "{report}");
    Ok(())
}
