//! Whatever the path and the links, nothing outside the root is read.

use std::{fs, os::unix::fs::symlink, path::Path};

use proptest::prelude::*;
use serde_json::json;

use crate::{artifacts::roots, support::lease};

/// Names that meet each other often; `l` and `m` are the links.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop_oneof![Just("a"), Just("b"), Just("file"), Just("secret")],
        4 => prop_oneof![Just("l"), Just("m")],
        3 => Just(".."),
        1 => prop_oneof![Just("."), Just("")],
    ]
    .prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    (prop::bool::weighted(0.1), proptest::collection::vec(name(), 1..5))
        .prop_map(|(absolute, names)| format!("{}{}", if absolute { "/" } else { "" }, names.join("/")))
}

/// What an agent asks for: mostly through a link, and without climbing, which is refused at sight.
fn asked() -> impl Strategy<Value = String> {
    let through = (
        prop_oneof![Just("l"), Just("m"), Just("a/l"), Just("a/b/m")],
        prop_oneof![Just(""), Just("/secret"), Just("/file"), Just("/a/file")],
    );
    prop_oneof![3 => through.prop_map(|(link, rest)| format!("{link}{rest}")), 1 => path()]
}

/// Links at known places, with any targets; an absolute one leads to the files outside.
fn lay_out(root: &Path, targets: &[String], outside: &Path) {
    for folder in ["", "a", "a/b", "b"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
        fs::write(root.join(folder).join("file"), "public").expect("a file");
    }
    for (at, target) in ["l", "m", "a/l", "a/b/m", "b/l"].into_iter().zip(targets) {
        let target = target.strip_prefix('/').map_or_else(|| target.clone(), |rest| format!("{}/{rest}", outside.display()));
        // An empty target is refused by the kernel: then there is no link.
        let _ = symlink(target, root.join(at));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn no_path_and_no_link_reads_outside_the_root(
        targets in proptest::collection::vec(path(), 5),
        asked in proptest::collection::vec(asked(), 1..8),
    ) {
        let (dir, fixture) = roots();
        let outside = dir.path().join("outside");
        for folder in ["", "a", "b", "a/b"] {
            fs::create_dir_all(outside.join(folder)).expect("a folder");
            for name in ["file", "secret"] {
                fs::write(outside.join(folder).join(name), "secret").expect("a file");
                fs::write(dir.path().join(name), "secret").expect("a file");
            }
        }
        let root = dir.path().join("in");
        lay_out(&root, &targets, &outside);
        let inside = root.canonicalize().expect("it exists");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for path in &asked {
            let answer = runtime.block_on(fixture.call(lease(1, 1), "artifact_read", json!({"path": path})));
            match answer {
                Ok(piece) => prop_assert_eq!(&piece["text"], &json!("public"), "{}", path),
                Err(failure) => {
                    let code = failure.error.code.as_str();
                    prop_assert!(["outside_root", "not_found", "invalid_arguments"].contains(&code), "{}: {}", path, failure);
                    // What is plainly inside, by the kernel's own resolution, is not refused as missing.
                    let plain = !path.starts_with('/') && !path.split('/').any(|part| part == "..") && !path.ends_with('/');
                    let found = inside.join(path).canonicalize().is_ok_and(|at| at.starts_with(&inside) && at.is_file());
                    prop_assert!(!(plain && found && code == "not_found"), "{}: {}", path, failure);
                }
            }
        }
    }

    #[test]
    fn no_path_writes_outside_the_folder_of_its_instance(path in prop_oneof![path(), "\\PC{1,40}", "[./ab]{1,20}"]) {
        let (dir, fixture) = roots();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let answer = runtime.block_on(fixture.call(lease(1, 1), "artifact_write", json!({"path": path, "text": "x"})));
        let own = dir.path().join("out").join(lease(1, 1).run.to_string()).join(lease(1, 1).instance.to_string());
        let mut files = Vec::new();
        collect(dir.path(), &mut files);
        prop_assert_eq!(files.len(), usize::from(answer.is_ok()), "{:?}", files);
        prop_assert!(files.iter().all(|file| file.starts_with(&own)), "{:?}", files);
    }
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        if entry.file_type().expect("a type").is_dir() {
            collect(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}
