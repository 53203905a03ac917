//! Builds that fail in every way that a script or a user can cause: one clear message, nothing
//! lost, nothing left behind.

use std::time::Duration;

use plan::{Context, ImageOutput};

use tests::{names, process_with};

use crate::{
    harness::{Ground, ground},
    plans::{plan, sh, stage},
};

/// Builds a plan of one script and returns the error with all causes.
async fn fail(ground: &Ground, script: &str) -> String {
    let mut plan = plan(vec![stage("bad", Context::default(), vec![sh("the script", script)])]);
    plan.outputs.overwrite = true;
    plan.outputs.images = vec![ImageOutput {
        disk: plan::DiskName::new("image0").unwrap(),
        format: "qcow2".into(),
        path: ground.path("image.qcow2"),
        compress: true,
        options: None,
    }];
    std::fs::write(ground.path("image.qcow2"), "an earlier image").unwrap();
    let error = vbuild::build(&plan, &ground.settings, &ground.ctx).await.unwrap_err();
    let mut text = error.source.to_string();
    let mut source = error.source.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    // An existing output is kept, nothing is beside it, no machine runs.
    assert_eq!(std::fs::read_to_string(ground.path("image.qcow2")).unwrap(), "an earlier image");
    assert_eq!(names(ground.dir.path()), ["image.qcow2"]);
    let run = ground.settings.cache_dir.join("run");
    assert!(!process_with(&format!("{}/vbuild-run-{}-", run.display(), std::process::id())));
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_fail_hang_flood_and_destroy() {
    let Some(mut ground) = ground("scripts_that_fail_hang_flood_and_destroy") else { return };
    let text = fail(&ground, "echo last words; exit 7").await;
    assert!(text.contains("bad/the script failed with exit status 7"), "{text}");
    assert!(ground.recorder.lines().contains(&"last words".to_owned()));

    ground.settings.script_timeout = Some(Duration::from_secs(2));
    let text = fail(&ground, "sleep 600").await;
    assert!(text.contains("did not end within 2 seconds"), "{text}");
    ground.settings.script_timeout = None;

    // A guest file with the path of a host file is not that file.
    let own = ground.dir.path().display();
    let text = fail(&ground, &format!("rm -rf /etc/ssh /home /root {own}; exit 9")).await;
    assert!(text.contains("exit status 9"), "{text}");

    let text = fail(&ground, "head -c 30000000 /dev/zero | tr '\\0' 'x'; exit 1").await;
    assert!(text.contains("exit status 1"), "{text}");

    let text = fail(&ground, "echo o > /proc/sysrq-trigger; sleep 60").await;
    assert!(text.contains("the virtual machine is gone"), "{text}");

    let text = fail(&ground, "echo c > /proc/sysrq-trigger; sleep 60").await;
    assert!(text.contains("kernel panicked"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_the_build_and_leaves_nothing() {
    let Some(ground) = ground("an_interrupt_stops_the_build_and_leaves_nothing") else { return };
    let stop = ground.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(6)).await;
        stop.send_replace(true);
    });
    let text = fail(&ground, "sleep 600").await;
    assert!(text.contains("the build was stopped"), "{text}");
}
