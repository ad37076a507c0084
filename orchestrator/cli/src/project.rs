//! A project: a folder with a program in one language and the manifest that deploys it.

pub(crate) mod build;
pub(crate) mod template;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::Value;

use crate::cluster::{self, ClusterError};

/// What a program is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// An HTTP function with the SDK (crate catamaran-sdk)
    Rust,
    /// An HTTP function (componentize-py)
    Python,
    /// An HTTP function (componentize-js)
    Js,
    /// A batch program (GOOS=wasip1)
    Go,
    /// A batch program (wasi-sdk or zig)
    C,
}

/// A folder that can be built and run.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) directory: PathBuf,
    pub(crate) language: Language,
    /// The image that the manifest names, without its registry: `NAME[:TAG]`.
    pub(crate) image: String,
    /// The objects of the manifest.
    pub(crate) objects: Vec<Value>,
}

/// Why a folder is no project.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProjectError {
    #[error("there is no folder {0}; `catamaran new NAME --lang rust` makes one with a program in it")]
    NoFolder(String),
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Manifest(#[from] ClusterError),
    #[error(
        "{0} names no image of the built-in registry; a project's program is the one image localhost:5000/NAME:TAG"
    )]
    NoImage(String),
    #[error("{path} names several images of the built-in registry ({images}); a project is one program")]
    Images { path: String, images: String },
    #[error("{folder} has no program: none of {files} is there")]
    NoProgram { folder: String, files: String },
}

// === impl Language ===

impl Language {
    /// The file that tells it.
    fn mark(self) -> &'static str {
        match self {
            Language::Rust => "Cargo.toml",
            Language::Python => "src/app.py",
            Language::Js => "package.json",
            Language::Go => "go.mod",
            Language::C => "src/main.c",
        }
    }

    fn of(folder: &Path) -> Option<Self> {
        Self::value_variants().iter().copied().find(|language| folder.join(language.mark()).is_file())
    }
}

// === impl Project ===

impl Project {
    /// Reads the manifest and looks which language the program is in.
    pub(crate) fn open(folder: &Path) -> Result<Self, ProjectError> {
        if !folder.is_dir() {
            return Err(ProjectError::NoFolder(folder.display().to_string()));
        }
        let language = Language::of(folder).ok_or_else(|| ProjectError::NoProgram {
            folder: folder.display().to_string(),
            files: Language::value_variants().iter().map(|l| l.mark()).collect::<Vec<_>>().join(", "),
        })?;
        let path = folder.join("manifest.yaml");
        let name = path.display().to_string();
        let yaml = std::fs::read_to_string(&path)
            .map_err(|source| ProjectError::Read { path: name.clone(), source })?;
        let mut objects = cluster::documents(&name, &yaml)?;
        let image = only_image(name, &mut objects)?;
        Ok(Project { directory: folder.to_owned(), language, image, objects })
    }

    /// The program's name: the image's without its tag.
    pub(crate) fn name(&self) -> &str {
        let last = self.image.rsplit('/').next().unwrap_or(&self.image);
        last.split(':').next().unwrap_or(last)
    }

    /// Where the built program goes, below the folder.
    pub(crate) fn artifact(&self) -> PathBuf {
        Path::new("build").join(format!("{}.wasm", self.name()))
    }

    /// The objects with another image in place of the program's.
    pub(crate) fn objects_with(&self, image: &str) -> Vec<Value> {
        let mut objects = self.objects.clone();
        for object in &mut objects {
            images(object, &mut |found| {
                if built_in(found).is_some() {
                    image.clone_into(found);
                }
            });
        }
        objects
    }
}

fn only_image(path: String, objects: &mut [Value]) -> Result<String, ProjectError> {
    let mut found = BTreeSet::new();
    for object in objects {
        images(object, &mut |image| found.extend(built_in(image).map(str::to_owned)));
    }
    let mut found: Vec<_> = found.into_iter().collect();
    match found.pop() {
        Some(image) if found.is_empty() => Ok(image),
        Some(last) => Err(ProjectError::Images { path, images: format!("{}, {last}", found.join(", ")) }),
        None => Err(ProjectError::NoImage(path)),
    }
}

/// `NAME[:TAG]` when an image is one of a registry on loopback.
fn built_in(image: &str) -> Option<&str> {
    let (registry, name) = image.split_once('/')?;
    let (host, _port) = registry.split_once(':')?;
    ["localhost", "127.0.0.1"].contains(&host).then_some(name)
}

/// Every `image` of every container, wherever a pod's spec is in an object.
fn images(value: &mut Value, each: &mut dyn FnMut(&mut String)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("containers" | "initContainers", Value::Array(containers)) => {
                        for container in containers {
                            if let Some(Value::String(image)) = container.get_mut("image") {
                                each(image);
                            }
                        }
                    }
                    (_, field) => images(field, each),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| images(item, each)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(folder: &Path, manifest: &str) -> Result<Project, ProjectError> {
        std::fs::write(folder.join("manifest.yaml"), manifest).unwrap();
        Project::open(folder)
    }

    fn pod(images: &[&str]) -> String {
        let containers: Vec<_> =
            images.iter().map(|image| format!("{{name: c, image: '{image}'}}")).collect();
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: x}}, spec: {{containers: [{}]}}}}",
            containers.join(", ")
        )
    }

    #[test]
    fn the_manifest_names_the_program() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("go.mod"), "").unwrap();
        let two = format!(
            "{}\n---\n{}",
            pod(&["localhost:5000/team/app:1", "nginx"]),
            pod(&["127.0.0.1:1/team/app:1"])
        );
        let found = project(folder.path(), &two).unwrap();
        assert_eq!((found.language, found.image.as_str(), found.name()), (Language::Go, "team/app:1", "app"));
        assert_eq!(found.artifact(), Path::new("build/app.wasm"));
        let pinned = found.objects_with("localhost:5000/team/app@sha256:1");
        assert_eq!(pinned[0]["spec"]["containers"][0]["image"], "localhost:5000/team/app@sha256:1");
        assert_eq!(pinned[0]["spec"]["containers"][1]["image"], "nginx");
        assert_eq!(pinned[1]["spec"]["containers"][0]["image"], "localhost:5000/team/app@sha256:1");
    }

    #[test]
    fn what_is_no_project_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let error = |manifest: &str| project(folder.path(), manifest).unwrap_err().to_string();
        assert!(error("{}").contains("none of Cargo.toml, src/app.py"));
        std::fs::write(folder.path().join("package.json"), "{}").unwrap();
        assert!(error(&pod(&["docker.io/library/nginx"])).contains("names no image"));
        assert!(error(&pod(&["localhost:5000/a:1", "localhost:5000/b:1"])).contains("(a:1, b:1)"));
        assert!(error("a: [").contains("not usable"));
        let nowhere = Project::open(&folder.path().join("none")).unwrap_err();
        assert!(nowhere.to_string().contains("catamaran new"), "{nowhere}");
        std::fs::remove_file(folder.path().join("manifest.yaml")).unwrap();
        assert!(Project::open(folder.path()).unwrap_err().to_string().contains("manifest.yaml"));
    }
}
