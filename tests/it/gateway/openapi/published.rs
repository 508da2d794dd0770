//! Published descriptions, by the admin API and the command line.

use super::{API, described};
use crate::support::Backend;

#[tokio::test]
async fn the_admin_api_publishes_descriptions_and_a_page() {
    let backend = Backend::replying("ok").await;
    let hostile = API.replace("title: Rooms", "title: <script>alert(1)</script>");
    let proxy = described(&backend, &hostile, "\"api.yaml\"").await;
    let api = proxy.api();
    let names = api.get("/v1/openapi").await;
    assert_eq!(names["documents"], serde_json::json!(["all", "any"]));
    let document = api.get("/v1/openapi/all").await;
    let operation = &document["paths"]["/v1/rooms/{room}"]["post"];
    assert_eq!(
        (&document["openapi"], &operation["operationId"]),
        (&"3.1.0".into(), &"send".into())
    );
    assert!(document.get("x-moorline-routes").is_none());
    let with_routes = api.get("/v1/openapi/all?routes=true").await;
    assert_eq!(with_routes["x-moorline-routes"][0]["openapi"], "api.yaml");
    for (path, status) in
        [("/v1/openapi/absent", 404), ("/openapi/absent", 404), ("/v1/openapi/all?routes=1", 400)]
    {
        assert_eq!(api.ask("GET", path, "").await.status(), status, "{path}");
    }
    let page = api.ask("GET", "/openapi/any", "").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    let text = page.text();
    assert!(text.contains("&lt;script&gt;alert(1)") && !text.contains("<script"), "{text}");
    assert!(text.contains("/v1/rooms/{room}"), "{text}");
    drop(backend);
    proxy.finish().await;
}
