//! The blocks of the pod range that this node owns: kept in a file, claimed one at a time. A node alone takes
//! the next one; nodes of a fleet claim each with a Lease of its own, which only one of them can create.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};

use super::error::{NetworkError, OnFile};
use crate::ipam::{BLOCK_PREFIX, Cidr};

/// Label of the Leases that stand for blocks; the value is the block's first address with dashes.
const LABEL: &str = "catamaran.dev/pod-block";
const NAMESPACE: &str = "kube-system";

/// This node's blocks and where further ones come from.
pub(super) struct Blocks {
    file: PathBuf,
    range: Cidr,
    owned: Vec<Cidr>,
    claims: Option<(Client, String)>,
}

impl Blocks {
    /// Reads the file; absent means no block yet. With `claims` (client and node name) the API arbitrates.
    pub(super) fn open(
        file: PathBuf,
        range: Cidr,
        claims: Option<(Client, String)>,
    ) -> Result<Self, NetworkError> {
        if range.prefix() > BLOCK_PREFIX {
            return Err(NetworkError::SmallRange(range));
        }
        let owned = read(&file)?;
        Ok(Self { file, range, owned, claims })
    }

    /// The blocks in the order in which they were claimed.
    pub(super) fn owned(&self) -> &[Cidr] {
        &self.owned
    }

    /// Claims one more block and remembers it.
    pub(super) async fn claim(&mut self) -> Result<Cidr, NetworkError> {
        let block = match &self.claims {
            None => next(self.range, &self.owned.iter().copied().collect()),
            Some((client, node)) => claim_at_api(client, node, self.range, &self.owned).await?,
        };
        let block = block.ok_or(NetworkError::NoAddress(self.range))?;
        let mut owned = self.owned.clone();
        owned.push(block);
        write(&self.file, &owned)?;
        self.owned = owned;
        Ok(block)
    }
}

fn next(range: Cidr, taken: &BTreeSet<Cidr>) -> Option<Cidr> {
    range.blocks(BLOCK_PREFIX).find(|block| !taken.contains(block))
}

async fn claim_at_api(
    client: &Client,
    node: &str,
    range: Cidr,
    owned: &[Cidr],
) -> Result<Option<Cidr>, NetworkError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let listed = leases.list(&ListParams::default().labels(LABEL)).await.map_err(NetworkError::Claim)?;
    let mut taken: BTreeSet<Cidr> = owned.iter().copied().collect();
    for lease in listed {
        let Some(block) = block_of(&lease) else { continue };
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        if holder.as_deref() == Some(node) && !taken.contains(&block) {
            return Ok(Some(block));
        }
        taken.insert(block);
    }
    while let Some(block) = next(range, &taken) {
        match leases.create(&PostParams::default(), &lease(block, node)).await {
            Ok(_) => return Ok(Some(block)),
            Err(kube::Error::Api(status)) if status.code == 409 => taken.insert(block),
            Err(error) => return Err(NetworkError::Claim(error)),
        };
    }
    Ok(None)
}

fn lease(block: Cidr, node: &str) -> Lease {
    let dashed = block.first().to_string().replace('.', "-");
    let meta = ObjectMeta {
        name: Some(format!("pod-block-{dashed}")),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some([(LABEL.to_owned(), dashed)].into()),
        ..ObjectMeta::default()
    };
    let spec = LeaseSpec { holder_identity: Some(node.to_owned()), ..LeaseSpec::default() };
    Lease { metadata: meta, spec: Some(spec) }
}

fn block_of(lease: &Lease) -> Option<Cidr> {
    let dashed = lease.metadata.labels.as_ref()?.get(LABEL)?;
    Cidr::new(dashed.replace('-', ".").parse().ok()?, BLOCK_PREFIX)
}

fn read(file: &Path) -> Result<Vec<Cidr>, NetworkError> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.on(file)?,
    };
    let blocks = text.lines().map(str::parse).collect::<Result<_, _>>();
    blocks.map_err(|source| NetworkError::Blocks { path: file.to_owned(), source })
}

/// Replaces the file in one step, so that a crash leaves the old list or the new one.
fn write(file: &Path, blocks: &[Cidr]) -> Result<(), NetworkError> {
    let text: String = blocks.iter().map(|block| format!("{block}\n")).collect();
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).on(folder)?;
    }
    let new = file.with_extension("new");
    let mut open = fs::File::create(&new).on(&new)?;
    std::io::Write::write_all(&mut open, text.as_bytes()).on(&new)?;
    open.sync_all().on(&new)?;
    fs::rename(&new, file).on(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blocks_are_taken_in_order_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("network/blocks");
        let open = |range: &str| Blocks::open(file.clone(), range.parse().unwrap(), None).unwrap();
        let mut blocks = open("10.128.0.0/23");
        assert_eq!(blocks.claim().await.unwrap().to_string(), "10.128.0.0/24");
        let mut blocks = open("10.128.0.0/23");
        assert_eq!(blocks.claim().await.unwrap().to_string(), "10.128.1.0/24");
        assert!(matches!(blocks.claim().await, Err(NetworkError::NoAddress(_))));
        assert_eq!(open("10.128.0.0/23").owned().len(), 2);
        fs::write(&file, "nonsense\n").unwrap();
        let damaged = Blocks::open(file.clone(), "10.128.0.0/23".parse().unwrap(), None);
        assert!(matches!(damaged, Err(NetworkError::Blocks { .. })));
    }

    #[test]
    fn a_lease_names_its_block() {
        let block: Cidr = "10.129.7.0/24".parse().unwrap();
        assert_eq!(block_of(&lease(block, "n")), Some(block));
    }
}
