// llama.cpp's worker, through node-llama-cpp: node llama.mjs MODULES GGUF THREADS.
// The protocol is that of protocol.py. MODULES is the node_modules folder of the peers.
import {statSync} from "node:fs";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [modules, path, threads] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(`${modules}/node-llama-cpp/dist/index.js`).href);
const llama = await getLlama({
    gpu: false, build: "never", skipDownload: true, progressLogs: false, logLevel: "error",
    maxThreads: Number(threads),
});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({
    contextSize: 1024, batchSize: 512, threads: {ideal: Number(threads), min: Number(threads)},
});
const sequence = context.getSequence();
const say = (reply) => process.stdout.write(JSON.stringify(reply) + "\n");

async function measure(ids, count) {
    await sequence.clearHistory();
    const tokens = [];
    const begun = performance.now();
    let read = begun;
    for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        tokens.push(token);
        if (tokens.length === 1) read = performance.now();
        if (tokens.length > count) break;
    }
    const ended = performance.now();
    return {swap: null, prefill: (read - begun) / 1e3, decode: (ended - read) / 1e3, tokens};
}

say({bytes: statSync(path).size});
for await (const line of createInterface({input: process.stdin})) {
    const request = JSON.parse(line);
    say(await measure(request.ids, request.new));
}
process.exit(0);
