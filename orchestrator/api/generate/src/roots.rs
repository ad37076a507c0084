//! The types from which everything else is reached.

use schemars::SchemaGenerator;

macro_rules! add {
    ($generator:ident, $($path:ident)::+ { $($name:ident)* }) => {{
        use k8s_openapi::$($path)::+ as package;
        $($generator.subschema_for::<package::$name>();)*
    }};
}

/// Registers every root with the generator; it follows references by itself.
pub(crate) fn register(g: &mut SchemaGenerator) {
    add!(g, api::core::v1 {
        Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod PodTemplate
        ReplicationController ResourceQuota Secret Service ServiceAccount
    });
    add!(g, api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet });
    add!(g, api::batch::v1 { CronJob Job });
    add!(g, api::autoscaling::v1 { HorizontalPodAutoscaler Scale });
    add!(g, api::autoscaling::v2 { HorizontalPodAutoscaler });
    add!(g, api::policy::v1 { Eviction PodDisruptionBudget });
    add!(g, api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR });
    add!(g, api::discovery::v1 { EndpointSlice });
    add!(g, api::events::v1 { Event });
    add!(g, api::coordination::v1 { Lease });
    add!(g, api::node::v1 { RuntimeClass });
    add!(g, api::scheduling::v1 { PriorityClass });
    add!(g, api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding });
    add!(g, api::storage::v1 { CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment });
    add!(g, api::certificates::v1 { CertificateSigningRequest });
    add!(g, api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview });
    add!(g, api::authorization::v1 {
        LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
    });
    add!(g, api::admissionregistration::v1 {
        MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
    });
    add!(g, api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration });
    add!(g, apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition });
    add!(g, kube_aggregator::pkg::apis::apiregistration::v1 { APIService });
    add!(g, apimachinery::pkg::apis::meta::v1 {
        APIGroup APIGroupList APIResourceList APIVersions DeleteOptions LabelSelector ListMeta ObjectMeta Status
    });
}

/// Kinds without a list kind.
pub(crate) const LONELY: &[&str] = &[
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "APIVersions",
    "Binding",
    "DeleteOptions",
    "Eviction",
    "LocalSubjectAccessReview",
    "Scale",
    "SelfSubjectAccessReview",
    "SelfSubjectReview",
    "SelfSubjectRulesReview",
    "Status",
    "SubjectAccessReview",
    "TokenRequest",
    "TokenReview",
    "WatchEvent",
];
