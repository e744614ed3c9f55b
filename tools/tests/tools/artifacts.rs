//! Reading and writing artifacts, through the gate.

use std::{fs, path::Path};

use muster_shared::{
    error::{ErrorClass, Retryable},
    hash::Hash32,
};
use muster_tools::ArtifactRoots;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Fixture, lease};

/// Two roots in a temporary folder.
pub(crate) fn roots() -> (TempDir, Fixture) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (read, write) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&read).expect("a new folder");
    (dir, Fixture::builtin(Some(ArtifactRoots { read, write })))
}

fn put(dir: &TempDir, path: &str, content: impl AsRef<[u8]>) {
    let path = dir.path().join("in").join(path);
    fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
    fs::write(path, content).expect("a file");
}

async fn read(fixture: &Fixture, arguments: Value) -> Value {
    fixture.call(lease(1, 1), "artifact_read", arguments).await.expect("it can be read")
}

#[tokio::test]
async fn a_file_is_read_in_pieces_that_make_the_whole() {
    let (dir, fixture) = roots();
    let text = "Grüße €\n".repeat(40_000);
    put(&dir, "a/long.txt", &text);
    let (mut whole, mut offset) = (String::new(), 0);
    loop {
        let piece = read(&fixture, json!({"path": "./a//long.txt", "offset": offset})).await;
        whole.push_str(piece["text"].as_str().expect("text"));
        offset += piece["bytes"].as_u64().expect("a number");
        assert_eq!(piece["lossy"], json!(false));
        if piece["truncated"] == json!(false) {
            break;
        }
    }
    assert!(whole == text && offset == text.len() as u64);
    let beyond = read(&fixture, json!({"path": "a/long.txt", "offset": i64::MAX})).await;
    assert_eq!(beyond, json!({"path": "a/long.txt", "text": "", "bytes": 0, "truncated": false, "lossy": false}));
}

#[tokio::test]
async fn a_file_that_is_not_text_is_read_as_far_as_possible_and_stays_within_the_bound() {
    let (dir, fixture) = roots();
    put(&dir, "binary", b"a\xFF\0b");
    let piece = read(&fixture, json!({"path": "binary"})).await;
    assert_eq!(piece, json!({"path": "binary", "text": "a\u{FFFD}\u{FFFD}b", "bytes": 4, "truncated": false, "lossy": true}));
    for (name, byte) in [("control", 1), ("zero", 0), ("invalid", 0xFF), ("quote", b'"'), ("plain", b'x')] {
        put(&dir, name, vec![byte; 100_000]);
        let piece = read(&fixture, json!({"path": name, "max_bytes": 48 * 1024})).await;
        assert_eq!(piece["truncated"], json!(true), "{name}");
        assert!(piece["bytes"].as_u64().is_some_and(|bytes| bytes > 8_000), "{name}: {}", piece["bytes"]);
    }
}

#[tokio::test]
async fn what_is_not_a_file_inside_the_root_is_refused() {
    let (dir, fixture) = roots();
    put(&dir, "a/file", "x");
    put(&dir, "../secret", "s");
    nix::unistd::mkfifo(&dir.path().join("in/pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    for path in ["/etc/passwd", "../secret", "a/../../secret", "a/.."] {
        let failure = fixture.call(lease(1, 1), "artifact_read", json!({"path": path})).await.expect_err(path);
        assert_eq!((failure.error.class, failure.error.code.as_str()), (ErrorClass::Permission, "outside_root"), "{path}");
        assert_eq!(failure.retry, Retryable::Never);
    }
    for path in ["none", "a", ".", "a/", "pipe", "a/file/x", &"n".repeat(300)] {
        let failure = fixture.call(lease(1, 1), "artifact_read", json!({"path": path})).await.expect_err(path);
        assert_eq!((failure.error.class, failure.error.code.as_str()), (ErrorClass::Tool, "not_found"), "{path}");
        assert!(!failure.error.message.contains(&dir.path().display().to_string()), "host paths stay inside");
    }
    for arguments in [json!({"path": "a\0"}), json!({"path": ""}), json!({"path": "a", "max_bytes": 1}), json!({"path": "a", "offset": -1})]
    {
        assert_eq!(fixture.code("artifact_read", arguments).await, "invalid_arguments");
    }
}

#[tokio::test]
async fn links_are_followed_inside_the_root_and_refused_where_they_leave_it() {
    let (dir, fixture) = roots();
    put(&dir, "a/b/file", "x");
    put(&dir, "../secret", "s");
    let root = dir.path().join("in");
    link(Path::new("a/b"), &root.join("folder"));
    link(Path::new("../../folder/./../b/file"), &root.join("a/b/round"));
    assert_eq!(read(&fixture, json!({"path": "folder/round"})).await["text"], json!("x"));
    link(Path::new("../secret"), &root.join("climbs"));
    link(Path::new("../../in/a/b/file"), &root.join("a/leaves-and-returns"));
    link(&dir.path().join("in/a/b/file"), &root.join("absolute"));
    link(Path::new("loop"), &root.join("loop"));
    for path in ["climbs", "a/leaves-and-returns", "absolute", "loop", "loop/x"] {
        assert_eq!(fixture.code("artifact_read", json!({"path": path})).await, "outside_root", "{path}");
    }
    link(Path::new("nowhere"), &root.join("dangling"));
    assert_eq!(fixture.code("artifact_read", json!({"path": "dangling"})).await, "not_found");
}

#[tokio::test]
async fn what_an_instance_writes_is_read_by_its_run_and_by_no_other() {
    let (dir, fixture) = roots();
    let (writer, sibling, stranger) = (lease(1, 1), lease(1, 2), lease(2, 3));
    let arguments = json!({"path": "reports/one.md", "text": "# Eins"});
    let artifact = format!("run:{}/reports/one.md", writer.instance);
    for _ in 0..2 {
        let written = fixture.call(writer, "artifact_write", arguments.clone()).await;
        let expected = json!({
            "path": "reports/one.md", "artifact": artifact, "bytes": 6, "sha256": Hash32::of(b"# Eins").to_string(),
        });
        assert_eq!(written, Ok(expected));
    }
    for reader in [writer, sibling] {
        let piece = fixture.call(reader, "artifact_read", json!({"path": artifact})).await.expect("its run reads it");
        assert_eq!(piece["text"], json!("# Eins"));
    }
    let refused = fixture.call(stranger, "artifact_read", json!({"path": artifact})).await.expect_err("another run");
    assert_eq!(refused.error.code, "not_found");
    let place = dir.path().join("out").join(writer.run.to_string()).join(writer.instance.to_string());
    assert_eq!(fs::read(place.join("reports/one.md")).expect("it is there"), b"# Eins");
    assert_eq!(fs::read_dir(dir.path().join("out/.unfinished")).expect("it is there").count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn paths_within_a_run_are_confined_like_all_others() {
    let (_dir, fixture) = roots();
    fixture.call(lease(1, 1), "artifact_write", json!({"path": "x", "text": "x"})).await.expect("it is written");
    let own = lease(1, 1).instance;
    assert_eq!(fixture.code("artifact_read", json!({"path": format!("run:{own}/../{own}/x")})).await, "outside_root");
    assert_eq!(fixture.code("artifact_read", json!({"path": format!("run:{own}//etc/passwd")})).await, "outside_root");
    assert_eq!(fixture.code("artifact_read", json!({"path": format!("run:{own}")})).await, "not_found");
    assert_eq!(fixture.code("artifact_read", json!({"path": "run:../x"})).await, "invalid_arguments");
    assert_eq!(fixture.code("artifact_write", json!({"path": "run:x", "text": ""})).await, "invalid_arguments");
}

#[tokio::test]
async fn writing_follows_no_link_and_replaces_no_folder() {
    let (dir, fixture) = roots();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    fixture.call(lease(1, 1), "artifact_write", json!({"path": "a/b", "text": "x"})).await.expect("it is written");
    let place = dir.path().join("out").join(lease(1, 1).run.to_string()).join(lease(1, 1).instance.to_string());
    link(&outside, &place.join("link"));
    link(&outside.join("file"), &place.join("file-link"));
    let write = |path: &str| fixture.code("artifact_write", json!({"path": path, "text": "x"}));
    assert_eq!(write("link/x").await, "outside_root");
    assert_eq!(write("../x").await, "outside_root");
    assert_eq!(write("/tmp/x").await, "outside_root");
    assert_eq!(write("a").await, "path_conflict");
    assert_eq!(write("a/b/c").await, "path_conflict");
    assert_eq!(write("a/").await, "not_found");
    // A link in the last place is replaced, not followed.
    fixture.call(lease(1, 1), "artifact_write", json!({"path": "file-link", "text": "x"})).await.expect("it is written");
    assert_eq!(fs::read_dir(&outside).expect("it is there").count(), 0);
}

fn link(target: &Path, at: &Path) {
    std::os::unix::fs::symlink(target, at).expect("a link");
}
