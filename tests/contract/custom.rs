//! Custom resources with the controllers: owners, namespaces and quotas know them.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use crate::world::{World, wait_until};

fn parse<T: k8s_openapi::serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn widgets() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.com", "v1", "Widget"), "widgets")
}

fn widget(name: &str) -> DynamicObject {
    parse(
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1}}),
    )
}

async fn define(world: &World) {
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client());
    let definition = json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "singular": "widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
            }}}],
        },
    });
    definitions.create(&PostParams::default(), &parse(definition)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_namespaces_and_quotas() {
    let mut world = World::new().await;
    // The collector looks for new kinds now and then; it knows those that are there when it starts.
    world.kill_controllers().await;
    define(&world).await;
    world.start_controllers();
    let client = world.client();
    let widgets_here: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &widgets());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = widgets_here.create(&PostParams::default(), &widget("owner")).await.unwrap();
    let owned = json!({"metadata": {"name": "owned", "ownerReferences": [
        {"apiVersion": "example.com/v1", "kind": "Widget", "name": "owner", "uid": made.uid().unwrap()},
    ]}});
    maps.create(&PostParams::default(), &parse(owned)).await.unwrap();
    let quotas: Api<ResourceQuota> = Api::default_namespaced(client.clone());
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/widgets.example.com": "5"}}});
    quotas.create(&PostParams::default(), &parse(quota)).await.unwrap();
    wait_until("the widget is counted", || async {
        let used = quotas.get("q").await.unwrap().status.and_then(|status| status.used).unwrap_or_default();
        used.get("count/widgets.example.com").is_some_and(|used| used.0 == "1")
    })
    .await;
    widgets_here.delete("owner", &DeleteParams::background()).await.unwrap();
    wait_until("the dependent is gone", || async { maps.get_opt("owned").await.unwrap().is_none() }).await;

    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &parse(json!({"metadata": {"name": "n"}}))).await.unwrap();
    let elsewhere: Api<DynamicObject> = Api::namespaced_with(client, "n", &widgets());
    elsewhere.create(&PostParams::default(), &widget("a")).await.unwrap();
    namespaces.delete("n", &DeleteParams::default()).await.unwrap();
    wait_until("the namespace is gone", || async { namespaces.get_opt("n").await.unwrap().is_none() }).await;
    world.stop().await;
}
