//! The OpenAPI document says what the router does, and the router what the document says.

use std::collections::BTreeSet;

use super::super::counts::ROUTES;
use super::super::description::DOCUMENT;
use super::*;

fn document() -> Value {
    serde_json::from_str(DOCUMENT).expect("docs/openapi.json is JSON")
}

#[test]
fn every_route_is_described_and_every_described_path_is_served() {
    let document = document();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(|method| (path.clone(), method.clone()))
        })
        .collect();
    let served: BTreeSet<(String, String)> = routes()
        .iter()
        .flat_map(|(path, methods, _)| {
            methods.iter().map(|method| ((*path).to_owned(), (*method).to_owned()))
        })
        .collect();
    assert_eq!(described, served);
    assert_eq!(routes().map(|(path, ..)| path), ROUTES, "each route is counted by itself");
}

/// The methods of [`routes`] are what the router really takes.
#[test]
fn a_route_takes_its_methods_and_no_others() {
    run(async {
        let rig = Rig::new(Fake::default());
        for (path, methods, _) in routes() {
            let path = path.replace("{topic}", "t").replace("{kind}", "info");
            for method in ["get", "post", "put", "delete", "patch"] {
                let request = Rig::request(&method.to_uppercase(), &path);
                let request = request.body(Body::empty()).unwrap();
                let response = rig.router.clone().oneshot(request).await.unwrap();
                let refused = response.status() == StatusCode::METHOD_NOT_ALLOWED;
                assert_eq!(refused, !methods.contains(&method), "{method} {path}");
            }
        }
    });
}

#[test]
fn operations_are_described_for_generators() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let place = format!("{method} {path}");
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{place}: {id} stands twice");
            for field in ["summary", "description"] {
                assert!(!operation[field].as_str().unwrap().is_empty(), "{place}: {field}");
            }
            for status in ["401", "408", "413"] {
                assert!(operation["responses"].get(status).is_some(), "{place}: {status}");
            }
        }
    }
    let text = document.to_string();
    let mut rest = text.as_str();
    while let Some((_, found)) = rest.split_once(r##""$ref":"#"##) {
        let (place, behind) = found.split_once('"').unwrap();
        assert!(document.pointer(place).is_some(), "{place} is nowhere");
        rest = behind;
    }
}

/// What of `value` is not as `schema` says, in words.
fn fault(document: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        return fault(document, schema, value, place);
    }
    let right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some(other) => panic!("{place}: type {other}"),
        None => true,
    };
    if !right {
        return Some(format!("{place} is {value}, not {}", schema["type"]));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Some(format!("{place} is {value}, none of {words:?}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            return Some(format!("{place} has no {name}"));
        }
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, field) in value.as_object().unwrap() {
            let place = format!("{place}.{name}");
            let Some(schema) = properties.get(name) else {
                return Some(format!("{place} is not described"));
            };
            if let Some(fault) = fault(document, schema, field, &place) {
                return Some(fault);
            }
        }
    }
    let items = value.as_array().into_iter().flatten();
    let values = value.as_object().into_iter().flat_map(|fields| fields.values());
    let inner = [("items", items.collect::<Vec<_>>()), ("additionalProperties", values.collect())];
    inner.into_iter().find_map(|(key, values)| {
        let schema = schema.get(key)?;
        values.into_iter().find_map(|value| fault(document, schema, value, &format!("{place}[]")))
    })
}

#[test]
fn the_documents_examples_are_as_its_schemas_say() {
    let document = document();
    let mut examples = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let responses = operation["responses"].as_object().unwrap().values();
            let contents = responses.chain([&operation["requestBody"]]);
            for content in contents.map(|content| &content["content"]["application/json"]) {
                if let Some(example) = content.get("example") {
                    assert_eq!(fault(&document, &content["schema"], example, path), None);
                    examples += 1;
                }
            }
        }
    }
    assert!(examples > 10, "{examples}");
}

/// Every example request is taken, and each answer has a documented status and form.
#[test]
fn what_is_answered_is_as_the_document_says() {
    run(async {
        let document = document();
        let rig = Rig::new(Fake::default());
        for (path, methods, _) in routes() {
            for method in methods.iter().filter(|_| path != "/bus") {
                let operation = &document["paths"][path][*method];
                let example = &operation["requestBody"]["content"]["application/json"]["example"];
                let real = path.replace("{kind}", "schema").replace("{topic}", "some.topic");
                let request = Rig::request(&method.to_uppercase(), &real)
                    .header(header::AUTHORIZATION, format!("Bearer {PLAYER}"));
                let body = if example.is_null() { String::new() } else { example.to_string() };
                let answer = rig.send(request.body(body.into()).unwrap()).await;
                let response = &operation["responses"][answer.status.to_string()];
                assert!(!response.is_null(), "{method} {path}: {answer:?}");
                let content_type = answer.content_type.split(';').next().unwrap();
                let schema = &response["content"][content_type]["schema"];
                assert_eq!(schema.is_null(), answer.body.is_empty(), "{method} {path}: {answer:?}");
                if content_type.ends_with("json") {
                    let place = format!("{method} {path}");
                    assert_eq!(fault(&document, schema, &answer.json(), &place), None);
                }
            }
        }
    });
}

#[test]
fn the_document_is_served_as_it_is_kept() {
    run(async {
        let answer = Rig::new(Fake::default()).get("/openapi.json").await;
        assert_eq!((answer.status, &*answer.content_type), (200, "application/json"));
        assert_eq!(answer.body, DOCUMENT);
    });
}

#[test]
fn an_endpoint_describes_itself_with_schemas_that_stand_alone() {
    run(async {
        let rig = Rig::new(Fake::default());
        let path = "/client-capabilities";
        for (suffix, kind) in [
            ("info", "endpoint-info"),
            ("request-schema", "request-schema"),
            ("response-schema", "response-schema"),
            ("schema", "full-schema"),
        ] {
            let answer = rig.get(&format!("{path}/meta/{suffix}")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(!answer.body.contains("$ref"), "{answer:?}");
            let answer = answer.json();
            assert_eq!((&answer["metaType"], &answer["path"]), (&json!(kind), &json!(path)));
            assert_eq!(answer["serviceName"], "Connect");
            let data = &answer["data"];
            match suffix {
                "info" => assert_eq!(data["operationId"], "getClientCapabilities"),
                "request-schema" => assert_eq!(data["required"], json!(["sessionId"])),
                "response-schema" => {
                    let guid = &data["properties"]["capabilities"]["items"]["properties"]["guid"];
                    assert_eq!(guid["format"], "uuid");
                }
                _ => {
                    for part in ["info", "request", "response"] {
                        assert!(data[part].is_object(), "{part}: {data}");
                    }
                }
            }
        }
        rig.get("/internal/proxy/meta/all").await.assert_problem(404, "\"all\"");
    });
}
