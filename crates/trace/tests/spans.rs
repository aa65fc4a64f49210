//! Spans as their exporter gets them. In a process of its own: there is one exporter in each.

use std::sync::{Arc, Mutex};

use tenantry_trace::{
    Finished, InDatabase, Kind, Sampler, Span, Trace, Value, Work, carried, install, within,
};

#[tokio::test]
async fn spans_have_the_ids_of_the_work_and_below_it_of_who_called_them() {
    let all: Arc<Mutex<Vec<Finished>>> = Arc::default();
    let sink = all.clone();
    let sampler = Sampler::named("parentbased_traceidratio", 0.0).unwrap();
    assert!(install(sampler, move |span| sink.lock().unwrap().push(span)));
    assert!(!install(sampler, |_| {}), "there is one already");

    let taken = || std::mem::take(&mut *all.lock().unwrap());
    let caller: Trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
    let trace = caller.received();
    within(Work::new(trace), async {
        let mut own = Span::of(trace, Kind::Server, "GET /");
        own.set("n", 7);
        let spawned = carried(async { drop(InDatabase::asking("select 1 from tenantry.users")) });
        tokio::spawn(spawned).await.unwrap();
        let mut redis = Span::child(Kind::Client, "GET");
        redis.fail("timeout");
    })
    .await;
    let spans = taken();
    let told = |span: &Finished| (span.name.to_string(), span.kind, span.failed);
    assert_eq!(
        spans.iter().map(told).collect::<Vec<_>>(),
        [
            ("select users".to_owned(), Kind::Client, false),
            ("GET".to_owned(), Kind::Client, true),
            ("GET /".to_owned(), Kind::Server, false)
        ]
    );
    let [sql, redis, server] = &spans[..] else { panic!("{spans:?}") };
    assert!(spans.iter().all(|span| span.trace.trace_id() == caller.trace_id() && span.end >= span.start));
    assert_eq!(server.trace, trace);
    assert_eq!(server.trace.parent_id(), Some(caller.span_id()));
    assert_eq!([sql, redis].map(|span| span.trace.parent_id()), [Some(trace.span_id()); 2]);
    assert_ne!(sql.trace.span_id(), redis.trace.span_id());
    assert_eq!(server.attributes, [("n", Value::Number(7))]);

    // What begins here is not drawn, what a caller does not record is not recorded, and outside of work there is nothing.
    let unsampled: Trace = caller.to_string().replace("-01", "-00").parse().unwrap();
    for trace in [Trace::begin(), unsampled.received()] {
        assert!(!trace.is_sampled());
        within(Work::new(trace), async move {
            drop(Span::of(trace, Kind::Server, "GET /"));
            drop(InDatabase::begin());
        })
        .await;
    }
    drop(Span::child(Kind::Client, "GET"));
    assert_eq!(taken().len(), 0);
}
