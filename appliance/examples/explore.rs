use appliance::*;
fn main() {
    let dir = std::path::PathBuf::from("/tmp/appliance/cache");
    std::fs::create_dir_all(&dir).unwrap();
    let apt = apt_conf::AptConf::of_host();
    let client = http::Client::new(None, &apt).unwrap();
    let mirror = mirror::Mirror::from_host().unwrap();
    let release = std::env::args().nth(1).unwrap_or("bookworm".into());
    let t = std::time::Instant::now();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let a = archive::Archive::load(
        &client,
        archive::Source { mirror: &mirror, release: &release, expiry: release::Expiry::Warn, now },
        &dir,
        &mut |_| {},
    )
    .unwrap();
    println!("load {:?} {} packages {:?}", t.elapsed(), a.index.len(), a.warnings);
    let t = std::time::Instant::now();
    let mut wanted: Vec<String> = packages::TOOLS.iter().map(|s| s.to_string()).collect();
    wanted.extend(std::env::args().skip(2));
    let skip: Vec<String> = vec![];
    wanted.retain(|w| !skip.contains(w));
    let set = solve::resolve(&a.index, &wanted).unwrap();
    println!(
        "solve {:?} {} packages {} MB",
        t.elapsed(),
        set.len(),
        set.iter().map(|p| p.size).sum::<u64>() / 1000000
    );
    let mut s = set.clone();
    s.sort_by_key(|p| std::cmp::Reverse(p.size));
    for p in s.iter() {
        print!("{}:{}k ", p.name, p.size / 1000);
    }
    println!();
    let t = std::time::Instant::now();
    let items: Vec<_> = set.iter().map(|p| a.item(p)).collect();
    let mut last = fetch::Progress::default();
    fetch::fetch_all(&client, &dir, &items, &mut |p| last = p).unwrap();
    println!("fetch {:?} {last:?}", t.elapsed());
}
