// Paints a picture and saves it: submits a job, watches it through lost connections, and downloads the result.
//
//   node build/paint.js HOST:PORT PHOTO STYLE OUT.png
//
// IMPASTO_TOKEN is the server's token, IMPASTO_TLS_CA the CA certificates (PEM) that verify it; both are optional.
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import { createHash, randomUUID } from "crypto";
import { readFileSync, writeFileSync } from "fs";
import { join } from "path";
import * as protobuf from "protobufjs";
import type { JobResult__Output } from "./generated/impasto/v1/JobResult";
import type { JobSpec } from "./generated/impasto/v1/JobSpec";
import type { ProtoGrpcType } from "./generated/style_transfer";
import type { StyleTransferServiceClient } from "./generated/impasto/v1/StyleTransferService";

const PROTOS = join(__dirname, "..", "protos"); // written by: impasto proto -o protos

function connect(address: string): StyleTransferServiceClient {
  const definition = loader.loadSync("impasto/v1/style_transfer.proto", {
    includeDirs: [PROTOS],
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  const loaded = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
  return new loaded.impasto.v1.StyleTransferService(address, credentials());
}

function credentials(): grpc.ChannelCredentials {
  const authority = process.env.IMPASTO_TLS_CA;
  return authority ? grpc.credentials.createSsl(readFileSync(authority)) : grpc.credentials.createInsecure();
}

function metadata(): grpc.Metadata {
  const sent = new grpc.Metadata();
  if (process.env.IMPASTO_TOKEN) sent.set("authorization", `Bearer ${process.env.IMPASTO_TOKEN}`);
  return sent;
}

interface Reason {
  reason: string;
  retryAfterS: number | undefined;
  fields: string[];
}

/** Decodes the details that every error of the server carries. */
function reasonOf(error: grpc.ServiceError): Reason {
  const found: Reason = { reason: "", retryAfterS: undefined, fields: [] };
  const packed = error.metadata.get("grpc-status-details-bin")[0];
  if (!(packed instanceof Buffer)) return found; // no impasto server answered
  const root = new protobuf.Root();
  root.resolvePath = (_, target) => (target.startsWith("google/rpc/") ? join(PROTOS, target) : target);
  root.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);
  const decode = (name: string, value: Uint8Array) => root.lookupType(name).decode(value).toJSON();
  const status = root.lookupType("google.rpc.Status").decode(packed) as unknown as {
    details: { type_url: string; value: Uint8Array }[];
  };
  for (const detail of status.details) {
    const name = detail.type_url.split("/").pop() ?? "";
    const value = decode(name, detail.value);
    if (name === "google.rpc.ErrorInfo") found.reason = String(value.reason);
    if (name === "google.rpc.RetryInfo") found.retryAfterS = Number(value.retryDelay?.seconds ?? 0);
    if (name === "google.rpc.BadRequest")
      found.fields = (value.fieldViolations ?? []).map((item: { field: string }) => item.field);
  }
  return found;
}

const again = (error: grpc.ServiceError): boolean => error.code === grpc.status.UNAVAILABLE;
const pause = (seconds: number): Promise<void> => new Promise((done) => setTimeout(done, 1000 * seconds));

/** Repeats a call while the server is unavailable. Safe, because the request id makes the server join the same job. */
async function patiently<T>(call: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      if (!again(error as grpc.ServiceError) || attempt === 10) throw error;
      await pause(reasonOf(error as grpc.ServiceError).retryAfterS ?? 1);
    }
  }
}

function submit(client: StyleTransferServiceClient, spec: JobSpec, requestId: string): Promise<string> {
  return new Promise((resolve, reject) =>
    client.SubmitJob({ spec, requestId }, metadata(), (error, response) =>
      error ? reject(error) : resolve(response?.job?.jobId ?? "")));
}

/** Watches a job to its end; after a lost connection it goes on after the last event that was seen. */
async function watch(client: StyleTransferServiceClient, jobId: string): Promise<JobResult__Output> {
  let seen = 0;
  return patiently(() => new Promise<JobResult__Output>((resolve, reject) => {
    const stream = client.Progress({ jobId, resumeAfterSequence: seen }, metadata());
    stream.on("data", (event) => {
      seen = event.sequence;
      if (event.step) console.log(`step ${event.step.step} of ${event.step.steps}, loss ${event.step.losses?.total.toFixed(4)}`);
      if (event.result) resolve(event.result);
    });
    stream.on("error", reject);
  }));
}

/** Downloads a picture of any size; after a lost connection it goes on after the bytes that have arrived. */
async function download(client: StyleTransferServiceClient, jobId: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let sha256 = "";
  const data = await patiently(() => new Promise<Buffer>((resolve, reject) => {
    const offsetBytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    const stream = client.DownloadResult({ jobId, offsetBytes }, metadata());
    stream.on("data", (piece) => {
      chunks.push(piece.chunk);
      sha256 = piece.sha256;
    });
    stream.on("error", reject);
    stream.on("status", ({ code }) => code === grpc.status.OK && resolve(Buffer.concat(chunks))); // "end" comes before errors too
  }));
  if (createHash("sha256").update(data).digest("hex") !== sha256) throw new Error("the picture arrived damaged");
  return data;
}

async function main(): Promise<void> {
  const [address, photo, style, out] = process.argv.slice(2);
  if (!address || !photo || !style || !out) throw new Error("usage: paint.js HOST:PORT PHOTO STYLE OUT.png");
  const client = connect(address);
  const spec: JobSpec = {
    content: { data: readFileSync(photo) },
    styles: [{ image: { data: readFileSync(style) } }],
    parameters: { sizePx: Number(process.env.SIZE ?? 512), steps: Number(process.env.STEPS ?? 60) },
  };
  const requestId = randomUUID();
  const jobId = await patiently(() => submit(client, spec, requestId));
  const result = await watch(client, jobId);
  if (result.job?.state !== "JOB_STATE_SUCCEEDED") throw new Error(`the job failed: ${result.job?.error?.message ?? result.job?.state}`);
  writeFileSync(out, await download(client, jobId));
  client.close();
}

main().catch((error: grpc.ServiceError) => {
  const { reason, fields } = error.metadata ? reasonOf(error) : { reason: "", fields: [] };
  console.error([error.details ?? error.message, reason, ...fields].filter(Boolean).join(" | "));
  process.exit(1);
});
