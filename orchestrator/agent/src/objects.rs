//! What the agent reads from the API for a pod: ConfigMaps, Secrets, Services, service-account tokens.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use http::Request;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use kube::Api;
use kube::api::ListParams;
use tokio::time::Instant;

use crate::config::AgentConfig;
use crate::env::{ConfigError, Sources, needed};
use crate::members::namespace;

/// Services that become variables are read at most this often.
const SERVICES_FOR: Duration = Duration::from_secs(1);

/// Reads objects.
pub(crate) struct Objects {
    client: kube::Client,
    services: Mutex<Option<(Instant, Vec<Service>)>>,
    cpu_milli: i64,
    memory: i64,
    storage: i64,
}

impl Objects {
    /// With what the node has: thousandths of cores, bytes of memory and of disk.
    pub(crate) fn new(client: kube::Client, cpu_milli: i64, memory: i64, storage: i64) -> Self {
        Objects { client, services: Mutex::new(None), cpu_milli, memory, storage }
    }

    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ConfigMap>, kube::Error> {
        Api::<ConfigMap>::namespaced(self.client.clone(), namespace).get_opt(name).await
    }

    pub(crate) async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, kube::Error> {
        Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name).await
    }

    pub(crate) async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<PersistentVolumeClaim>, kube::Error> {
        Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace).get_opt(name).await
    }

    pub(crate) async fn persistent_volume(
        &self,
        name: &str,
    ) -> Result<Option<PersistentVolume>, kube::Error> {
        Api::<PersistentVolume>::all(self.client.clone()).get_opt(name).await
    }

    /// A token for a service account, bound to the pod.
    pub(crate) async fn token(
        &self,
        namespace: &str,
        account: &str,
        request: &TokenRequest,
    ) -> Result<TokenRequest, kube::Error> {
        let body = serde_json::to_vec(request).map_err(kube::Error::SerdeError)?;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request =
            Request::post(path).header(http::header::CONTENT_TYPE, "application/json").body(body).map_err(
                |error| kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(error)),
            )?;
        self.client.request(request).await
    }

    /// Everything a container's environment refers to.
    pub(crate) async fn sources(
        &self,
        pod: &Pod,
        container: &Container,
        ip: Ipv4Addr,
        config: &AgentConfig,
    ) -> Result<Sources, ConfigError> {
        let mut sources = self.plain_sources(Some(ip), config);
        let (maps, secrets) = needed(container);
        for name in maps {
            let found = self.config_map(namespace(pod), &name).await;
            let found = found.map_err(|source| ConfigError::Read {
                kind: "configmap",
                name: name.clone(),
                source,
            })?;
            sources.config_maps.insert(name, found);
        }
        for name in secrets {
            let found = self.secret(namespace(pod), &name).await;
            let found =
                found.map_err(|source| ConfigError::Read { kind: "secret", name: name.clone(), source })?;
            sources.secrets.insert(name, found);
        }
        sources.services = self.services().await;
        Ok(sources)
    }

    /// What the downward API needs.
    pub(crate) fn plain_sources(&self, ip: Option<Ipv4Addr>, config: &AgentConfig) -> Sources {
        Sources {
            pod_ip: ip,
            host_ip: Some(config.node_address),
            node_cpu_milli: self.cpu_milli,
            node_memory: self.memory,
            node_storage: self.storage,
            ..Sources::default()
        }
    }

    /// All Services. Variables are a courtesy: when they cannot be read, the last known ones serve.
    async fn services(&self) -> Vec<Service> {
        let known = self.services.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if let Some((at, services)) = &known
            && at.elapsed() < SERVICES_FOR
        {
            return services.clone();
        }
        match Api::<Service>::all(self.client.clone()).list(&ListParams::default()).await {
            Ok(list) => {
                let entry = Some((Instant::now(), list.items.clone()));
                *self.services.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = entry;
                list.items
            }
            Err(_) => known.map(|(_, services)| services).unwrap_or_default(),
        }
    }
}
