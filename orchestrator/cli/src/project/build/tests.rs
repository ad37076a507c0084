//! Tools are scripts in a folder that is all of PATH: what is asked of them, and what is said where one is missing.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

/// Writes all its words to `build/app.wasm`.
const NOTE: &str = "echo \"$*\" > build/app.wasm";

/// A project, and the tools of one test.
struct Place {
    folder: TempDir,
    language: Language,
}

impl Place {
    fn new(language: Language) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["project", "bin"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Place { folder, language }
    }

    fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn file(self, name: &str) -> Self {
        let path = self.project().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
        self
    }

    /// A tool: a shell script that has no other programs.
    fn tool(self, name: &str, script: &str) -> Self {
        let path = self.folder.path().join("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn build(&self) -> Result<PathBuf, BuildError> {
        let project = Project {
            directory: self.project(),
            language: self.language,
            image: "app:1".to_owned(),
            objects: Vec::new(),
        };
        let bin = self.folder.path().join("bin");
        let tools = Tools { path: bin.clone().into(), rustc: bin.join("rustc").into(), wasi_sdk: Vec::new() };
        build(&project, &tools)
    }

    #[track_caller]
    fn error(&self) -> String {
        self.build().unwrap_err().to_string()
    }

    /// What the tool noted.
    #[track_caller]
    fn noted(&self) -> String {
        std::fs::read_to_string(self.build().unwrap()).unwrap().trim().to_owned()
    }
}

#[test]
fn a_missing_tool_is_named_with_the_way_to_get_it() {
    let table = [
        (Language::Rust, "cargo is missing; install Rust from https://rustup.rs"),
        (Language::Python, "componentize-py is missing; run `pip install componentize-py==0.25.1`"),
        (Language::Js, "node is missing; install Node.js 20 or newer"),
        (Language::Go, "go is missing; install Go 1.21 or newer"),
        (Language::C, "a C compiler for WASI is missing; install"),
    ];
    for (language, expected) in table {
        let error = Place::new(language).error();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_tool_without_what_it_needs_says_so() {
    let rust = Place::new(Language::Rust).tool("cargo", "exit 7").tool("rustc", "echo /nowhere");
    assert!(rust.error().ends_with("run `rustup target add wasm32-wasip2`"), "{}", rust.error());
    let js = Place::new(Language::Js).tool("node", NOTE);
    assert!(js.error().contains("run `npm install` in /"), "{}", js.error());
    let go = Place::new(Language::Go).tool("go", "echo go1.20.4");
    assert!(go.error().contains("this is go1.20.4"), "{}", go.error());
}

#[test]
fn tools_are_asked_in_their_own_words() {
    let python = Place::new(Language::Python).tool("componentize-py", NOTE);
    assert_eq!(python.noted(), "-d wit -w http componentize -p src app -o build/app.wasm");
    let js = Place::new(Language::Js).tool("node", NOTE);
    let js = js.file("node_modules/@bytecodealliance/componentize-js/package.json");
    assert_eq!(js.noted(), "build.mjs build/app.wasm");
    let go = "[ $1 = env ] && echo go1.26.1 && exit\necho \"$GOOS $GOARCH $*\" > build/app.wasm";
    let go = Place::new(Language::Go).tool("go", go);
    assert_eq!(go.noted(), "wasip1 wasm build -trimpath -ldflags=-s -w -o build/app.wasm ./src");
    let c = |place: Place| place.file("src/b.c").file("src/a.c").file("src/a.h").noted();
    let flags = "--target=wasm32-wasi -Os -s -Wall -Wextra -o build/app.wasm src/a.c src/b.c";
    assert_eq!(c(Place::new(Language::C).tool("zig", NOTE)), format!("cc {flags}"));
    assert_eq!(c(Place::new(Language::C).tool("python3", NOTE)), format!("-m ziglang cc {flags}"));
}

#[test]
fn rust_takes_the_program_that_cargo_tells_of() {
    let place = Place::new(Language::Rust).file("lib/libstd-1.rlib");
    let folder = place.project().display().to_string();
    let cargo = r#"echo "$*" > FOLDER/made.wasm
echo '{"reason":"compiler-artifact","filenames":["libother.rlib"]}'
echo '{"reason":"compiler-artifact","filenames":["FOLDER/made.wasm"]}'
echo '{"reason":"build-finished","success":true}'"#;
    let place =
        place.tool("rustc", &format!("echo {folder}/lib")).tool("cargo", &cargo.replace("FOLDER", &folder));
    let expected = "build --release --target wasm32-wasip2 --message-format=json-render-diagnostics";
    assert_eq!(place.noted(), expected);
    let empty = place.tool("cargo", "echo '{\"reason\":\"build-finished\",\"success\":true}'");
    assert!(empty.error().contains("crate-type cdylib"), "{}", empty.error());
}

#[test]
fn a_failed_build_is_one() {
    let place = Place::new(Language::Python).tool("componentize-py", "exit 3");
    assert!(place.error().starts_with("componentize-py -d wit"), "{}", place.error());
}
