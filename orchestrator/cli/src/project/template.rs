//! What `new` writes: the samples of this repository under another name, and all they need to be built elsewhere.

use std::io;
use std::path::Path;

use super::Language;

/// Path in the project, content.
type Files = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($root:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../", $root, "/", $path)))),+]
    };
}

const RUST: Files =
    files!("samples/rust-function": "Cargo.toml", "Cargo.lock", "src/lib.rs", "manifest.yaml");
const PYTHON: Files = files!("samples/python-function": "src/app.py", "manifest.yaml");
const JS: Files = files!("samples/js-function": "src/app.js", "build.mjs", "package.json", "manifest.yaml");
const GO: Files = files!("samples/go-batch": "go.mod", "src/main.go", "manifest.yaml");
const C: Files = files!("samples/c-batch": "src/main.c", "manifest.yaml");
const SDK: Files = files!("sdk/rust":
    "Cargo.toml", "src/body.rs", "src/fetch.rs", "src/files.rs", "src/headers.rs", "src/lib.rs", "src/method.rs",
    "src/percent.rs", "src/request.rs", "src/response.rs", "src/task.rs", "src/url.rs", "src/wasi.rs",
    "src/wasi/incoming.rs", "src/wasi/outgoing.rs", "src/wasi/poll.rs", "src/wasi/streams.rs",
);
const WIT: Files = files!("sdk/wit":
    "world.wit", "deps/cli.wit", "deps/clocks.wit", "deps/filesystem.wit", "deps/http.wit", "deps/io.wit",
    "deps/random.wit", "deps/sockets.wit",
);
/// What building leaves behind.
const IGNORED: &str = "build/\nnode_modules/\ntarget/\n__pycache__/\n";

/// A template: the sample's name, which the project's takes the place of, and its files.
struct Template {
    name: &'static str,
    files: Files,
    /// Files that stay as they are, in a folder of their own.
    library: Option<(&'static str, Files)>,
    /// What it is, and what it is built with.
    about: &'static str,
    tools: &'static str,
}

fn of(language: Language) -> Template {
    let http = "An HTTP function: the host calls it for each request, in an instance of its own.";
    let batch = "A batch program: a Job runs it to its end. (A WASI preview 1 module cannot serve HTTP.)";
    let template = |name, files, library, about, tools| Template { name, files, library, about, tools };
    match language {
        Language::Rust => template(
            "rust-function",
            RUST,
            Some(("sdk", SDK)),
            http,
            "Rust with `rustup target add wasm32-wasip2`; `cargo test` tests the function on this machine. `sdk/` is the \
             crate catamaran-sdk of the `catamaran` that made this project.",
        ),
        Language::Python => template(
            "python-function",
            PYTHON,
            Some(("wit", WIT)),
            http,
            "Python 3.10 or newer with `pip install componentize-py==0.25.1`; `wit/` is the interface of the host.",
        ),
        Language::Js => template(
            "js-function",
            JS,
            Some(("wit", WIT)),
            http,
            "Node.js 20 or newer; `npm install` once in this folder. `wit/` is the interface of the host.",
        ),
        Language::Go => template("go-batch", GO, None, batch, "Go 1.21 or newer (GOOS=wasip1)."),
        Language::C => {
            template("c-batch", C, None, batch, "A wasi-sdk (WASI_SDK_PATH), zig, or `pip install ziglang`.")
        }
    }
}

/// Writes a project into a folder that is there and empty.
pub(crate) fn write(folder: &Path, name: &str, language: Language) -> io::Result<()> {
    let template = of(language);
    for (path, content) in template.files {
        let own = content.replace(template.name, name).replace("\"../../sdk/rust\"", "\"sdk\"");
        put(&folder.join(path), &own)?;
    }
    if let Some((library, files)) = template.library {
        files.iter().try_for_each(|(path, content)| put(&folder.join(library).join(path), content))?;
    }
    put(&folder.join(".gitignore"), IGNORED)?;
    put(&folder.join("README.md"), &readme(name, &template))
}

fn put(path: &Path, content: &str) -> io::Result<()> {
    std::fs::create_dir_all(path.parent().expect("a file lies in a folder"))?;
    std::fs::write(path, content)
}

fn readme(name: &str, template: &Template) -> String {
    format!(
        "# {name}

{about}

    catamaran build    # makes build/{name}.wasm
    catamaran run      # builds, pushes, deploys; prints where it answers, shows its log until Ctrl-C

Built with: {tools}

`src/` is the program, `manifest.yaml` what is deployed. `localhost:5000/{name}:1` in it is this program's image:
`catamaran run` puts the image that it has just pushed in its place. `kubectl delete -f manifest.yaml` removes it all.
",
        about = template.about,
        tools = template.tools,
    )
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::super::Project;
    use super::*;

    #[test]
    fn every_language_has_a_project_of_the_name_that_was_given() {
        for language in Language::value_variants() {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), "my-own", *language).unwrap();
            let project = Project::open(folder.path()).unwrap();
            assert_eq!((project.language, project.image.as_str()), (*language, "my-own:1"));
            for (path, _) in of(*language).files {
                let text = std::fs::read_to_string(folder.path().join(path)).unwrap();
                assert!(!text.contains(of(*language).name), "{path} names the sample");
                assert!(!text.contains("../"), "{path} needs what is not in the project");
            }
            let readme = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
            assert!(readme.contains("build/my-own.wasm"), "{readme}");
        }
    }

    #[test]
    fn the_libraries_are_whole() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk");
        for (folder, files) in [("rust", SDK), ("wit", WIT)] {
            let mut found = Vec::new();
            list(&root.join(folder), &mut found);
            for path in found {
                let path = path.strip_prefix(root.join(folder)).unwrap().display().to_string();
                let needed = path.ends_with(".rs") || path.ends_with(".wit");
                assert!(
                    !needed || files.iter().any(|(name, _)| *name == path),
                    "{path} is not in the template"
                );
            }
        }
    }

    fn list(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten().filter(|e| e.file_name() != "target") {
            if entry.path().is_dir() { list(&entry.path(), found) } else { found.push(entry.path()) }
        }
    }
}
