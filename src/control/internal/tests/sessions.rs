//! What services ask about sessions.

use super::*;

fn shortcut(route: u8, target: Option<u16>) -> Shortcut {
    Shortcut {
        route: Guid([route; 16]),
        target_guid: Guid::NULL,
        target: target.map(EndpointId),
        payload: [].into(),
        expires_unix_ms: None,
        name: None,
        description: None,
        source_service: None,
    }
}

#[test]
fn capabilities_are_those_of_the_manifest() {
    run(async {
        let rig = Rig::new(Fake::default());
        let body = json!({ "sessionId": LIVE.to_string(), "includeMetadata": true });
        let answer = rig.post_json("/client-capabilities", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["sessionId"], LIVE.to_string());
        assert_eq!(answer["version"], 1);
        assert!(answer.get("shortcuts").is_none(), "{answer}");
        let paths: Vec<_> = answer["capabilities"].as_array().unwrap().iter().collect();
        let shown: Vec<_> = paths
            .iter()
            .map(|it| {
                [&it["service"], &it["method"], &it["endpoint"]].map(|it| it.as_str().unwrap())
            })
            .collect();
        assert_eq!(
            shown,
            [
                ["account", "POST", "/account/get"],
                ["account", "PUT", "/other/path"],
                ["game", "POST", "/game/move"],
                ["account", "DELETE", "/account/gone"],
            ],
            "neither templated nor beyond what the session may call"
        );
        // The protocol's example of this session, service and path.
        assert_eq!(paths[0]["guid"], "cab54425-5941-5c52-bfb2-221b0cea4f17");
        assert_eq!(paths[0]["channel"], 0);
    });
}

#[test]
fn a_filter_is_the_beginning_of_a_services_name_in_any_case() {
    run(async {
        let rig = Rig::new(Fake::default());
        for (filter, count) in [("GA", 1), ("game", 1), ("ame", 0), ("", 4)] {
            let body = json!({ "sessionId": LIVE.to_string(), "serviceFilter": filter });
            let answer = rig.post_json("/client-capabilities", body).await.json();
            assert_eq!(answer["capabilities"].as_array().unwrap().len(), count, "{filter:?}");
        }
    });
}

#[test]
fn shortcuts_that_still_stand_are_shown() {
    run(async {
        let shortcuts = vec![
            Shortcut {
                name: Some("leave".into()),
                description: Some("Leave the queue".into()),
                ..shortcut(1, Some(3))
            },
            shortcut(2, None),
            Shortcut { expires_unix_ms: Some(1), ..shortcut(3, Some(0)) },
            Shortcut { expires_unix_ms: Some(u64::MAX), ..shortcut(4, Some(0)) },
        ];
        let rig = Rig::new(Fake { shortcuts, ..Fake::default() });
        let body = json!({ "sessionId": LIVE.to_string() });
        let answer = rig.post_json("/client-capabilities", body).await.json();
        let guid = |n: u8| Guid([n; 16]).to_string();
        let nameless = guid(2);
        assert_eq!(
            answer["shortcuts"].as_array().unwrap()[..2],
            [
                json!({
                    "guid": guid(1), "targetService": "game", "targetEndpoint": "/game/move",
                    "name": "leave", "description": "Leave the queue",
                }),
                json!({
                    "guid": nameless, "name": nameless,
                    "description": format!("Shortcut to {nameless}"),
                }),
            ]
        );
        assert_eq!(answer["shortcuts"][2]["guid"], guid(4));
        assert_eq!(answer["shortcuts"].as_array().unwrap().len(), 3);
    });
}

#[test]
fn only_a_connected_session_has_capabilities_here() {
    run(async {
        let rig = Rig::new(Fake::default());
        for session in [WAITING, ABSENT] {
            let body = json!({ "sessionId": session.to_string() });
            let answer = rig.post_json("/client-capabilities", body).await;
            answer.assert_problem(404, &session.to_string());
        }
        let answer = rig.post_json("/client-capabilities", json!({ "sessionId": "x" })).await;
        answer.assert_problem(400, "sessionId = \"x\"");
        let answer = rig.post_json("/client-capabilities", json!({})).await;
        answer.assert_problem(400, "sessionId");
        rig.post("/client-capabilities", "{").await.assert_problem(400, "line 1");
    });
}

#[test]
fn an_accounts_connected_sessions_are_listed() {
    run(async {
        let rig = Rig::new(Fake::default());
        let path = "/connect/get-account-sessions";
        let answer = rig.post_json(path, json!({ "accountId": ACCOUNT })).await.json();
        assert_eq!(answer, json!({ "accountId": ACCOUNT, "sessionIds": [LIVE.to_string()] }));
        let answer = rig.post_json(path, json!({ "accountId": "nobody" })).await.json();
        assert_eq!(answer, json!({ "accountId": "nobody", "sessionIds": [] }));
        rig.post_json(path, json!({ "account": 1 })).await.assert_problem(400, "accountId");
    });
}
