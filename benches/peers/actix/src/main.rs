//! What a Rust programmer would build instead: actix-web, pooled tokio-postgres with prepared statements, and Redis as a
//! cache that is asked first and forgotten after a write. Two routes, `GET` and `POST /api/images/`, over the same table and
//! with the same JSON. Started by `benches/run`; not part of the product.
//!
//! `PEER_LISTEN` (address), `PEER_WORKERS` (threads), `DATABASE_URL`, and `REDIS_URL` for the cache.

use std::env;
use std::error::Error;

use actix_web::error::ErrorInternalServerError;
use actix_web::http::header::{CacheControl, CacheDirective, ContentType};
use actix_web::{App, HttpResponse, HttpServer, Result, web};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use deadpool_redis::redis::AsyncCommands;
use serde::{Deserialize, Serialize};
use tokio_postgres::{NoTls, Row};

/// Connections to the database a worker, as node-postgres has them by default.
const CONNECTIONS: usize = 10;

/// Seconds that an answer stays in Redis.
const KEPT: u64 = 3600;

const SELECT: &str = "SELECT id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2 \
    FROM shoe_images WHERE shoe_id = $1 ORDER BY id";

const INSERT: &str = "INSERT INTO shoe_images (shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id";

#[derive(Clone)]
struct Stores {
    postgres: Pool,
    redis: Option<deadpool_redis::Pool>,
}

#[derive(Deserialize)]
struct Query {
    shoe_id: i32,
}

/// A row; what a client sends has no id.
#[derive(Serialize, Deserialize)]
struct Images {
    #[serde(default)]
    id: i32,
    shoe_id: Option<i32>,
    img1: Option<String>,
    img2: Option<String>,
    img3: Option<String>,
    img4: Option<String>,
    img5: Option<String>,
    img6: Option<String>,
    img7: Option<String>,
    vid1: Option<String>,
    vid2: Option<String>,
}

impl Images {
    fn of(row: &Row) -> Self {
        Images {
            id: row.get(0),
            shoe_id: row.get(1),
            img1: row.get(2),
            img2: row.get(3),
            img3: row.get(4),
            img4: row.get(5),
            img5: row.get(6),
            img6: row.get(7),
            img7: row.get(8),
            vid1: row.get(9),
            vid2: row.get(10),
        }
    }
}

fn key(shoe_id: i32) -> String {
    format!("actix:{shoe_id}")
}

fn json(body: Vec<u8>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .insert_header(CacheControl(vec![CacheDirective::NoCache]))
        .body(body)
}

async fn read(stores: web::Data<Stores>, query: web::Query<Query>) -> Result<HttpResponse> {
    if let Some(redis) = &stores.redis {
        let mut redis = redis.get().await.map_err(ErrorInternalServerError)?;
        let kept: Option<Vec<u8>> = redis
            .get(key(query.shoe_id))
            .await
            .map_err(ErrorInternalServerError)?;
        if let Some(body) = kept {
            return Ok(json(body));
        }
    }
    let client = stores.postgres.get().await.map_err(ErrorInternalServerError)?;
    let select = client.prepare_cached(SELECT).await.map_err(ErrorInternalServerError)?;
    let rows = client
        .query(&select, &[&query.shoe_id])
        .await
        .map_err(ErrorInternalServerError)?;
    drop(client);
    let images: Vec<Images> = rows.iter().map(Images::of).collect();
    let body = serde_json::to_vec(&images)?;
    if let Some(redis) = &stores.redis {
        let mut redis = redis.get().await.map_err(ErrorInternalServerError)?;
        let () = redis
            .set_ex(key(query.shoe_id), &body, KEPT)
            .await
            .map_err(ErrorInternalServerError)?;
    }
    Ok(json(body))
}

async fn write(stores: web::Data<Stores>, images: web::Json<Images>) -> Result<HttpResponse> {
    let mut images = images.into_inner();
    let Some(shoe_id) = images.shoe_id else {
        return Ok(HttpResponse::BadRequest().finish());
    };
    let client = stores.postgres.get().await.map_err(ErrorInternalServerError)?;
    let insert = client.prepare_cached(INSERT).await.map_err(ErrorInternalServerError)?;
    let row = client
        .query_one(
            &insert,
            &[
                &shoe_id,
                &images.img1,
                &images.img2,
                &images.img3,
                &images.img4,
                &images.img5,
                &images.img6,
                &images.img7,
                &images.vid1,
                &images.vid2,
            ],
        )
        .await
        .map_err(ErrorInternalServerError)?;
    drop(client);
    images.id = row.get(0);
    if let Some(redis) = &stores.redis {
        let mut redis = redis.get().await.map_err(ErrorInternalServerError)?;
        let () = redis.del(key(shoe_id)).await.map_err(ErrorInternalServerError)?;
    }
    Ok(HttpResponse::Created()
        .insert_header(("Location", format!("/api/images/{}", images.id)))
        .json(images))
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let workers: usize = env::var("PEER_WORKERS")?.parse()?;
    let recycling_method = RecyclingMethod::Fast;
    let manager = Manager::from_config(
        env::var("DATABASE_URL")?.parse()?,
        NoTls,
        ManagerConfig { recycling_method },
    );
    let redis = match env::var("REDIS_URL") {
        Ok(url) => {
            let mut config = deadpool_redis::Config::from_url(url);
            config.pool = Some(deadpool_redis::PoolConfig::new(CONNECTIONS * workers));
            Some(config.create_pool(Some(deadpool_redis::Runtime::Tokio1))?)
        }
        Err(_) => None,
    };
    let stores = Stores {
        postgres: Pool::builder(manager).max_size(CONNECTIONS * workers).build()?,
        redis,
    };
    HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(stores.clone()))
            .route("/api/images/", web::get().to(read))
            .route("/api/images/", web::post().to(write))
    })
    .workers(workers)
    .backlog(4096)
    .bind(env::var("PEER_LISTEN")?)?
    .run()
    .await?;
    Ok(())
}
