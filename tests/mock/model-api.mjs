// A mock model API on loopback: the OpenAI Responses API as Codex uses it, with behaviours chosen by the URL.
//
//   node model-api.mjs [PORT]      PORT 0 (the default) takes a free one; prints `ready http://127.0.0.1:PORT`
//
// Base URL of a client: http://127.0.0.1:PORT/MODE/v1, MODE being one of
//   ok     a short text               slow   one word every SLOW_MS (250), SLOW_WORDS (200) of them
//   tool   one shell tool call, then the text once the tool's output came back
//   e400 e401 e403 e429 e500 e529     that status with the vendor's error body (e429: Retry-After where RETRY_AFTER is set)
//   hang   headers are never sent     drop   the connection is destroyed after three words
//   bad    invalid JSON in the stream        empty  no text at all
// GET /requests answers {MODE: number of model requests so far}. MOCK_TEXT and MOCK_CMD replace text and command.
// Usage is always 1234 input (200 cached) and 56 output (7 reasoning) tokens.
import http from 'node:http';

const TEXT = process.env.MOCK_TEXT || 'MOCK-OK: hello from the mock model.';
const COMMAND = process.env.MOCK_CMD || 'echo tool-ran-$((40+2)) > tool-proof.txt; cat tool-proof.txt';
const SLOW_MS = Number(process.env.SLOW_MS || 250);
const SLOW_WORDS = Number(process.env.SLOW_WORDS || 200);
const BODY_MAX = 64 << 20;              // a prompt of Codex's limit (1 Mi characters) and more, many times over
const DROP_AFTER = 3;

const ERRORS = {
  e400: [400, 'invalid_request_error', 'mock: malformed request', null],
  e401: [401, 'authentication_error', 'mock: invalid api key', 'invalid_api_key'],
  e403: [403, 'permission_error', 'mock: forbidden', null],
  e429: [429, 'rate_limit_error', 'mock: rate limit exceeded', 'rate_limit_exceeded'],
  e500: [500, 'api_error', 'mock: internal server error', null],
  e529: [529, 'overloaded_error', 'mock: overloaded', null],
};
const USAGE = {
  input_tokens: 1234, input_tokens_details: { cached_tokens: 200 },
  output_tokens: 56, output_tokens_details: { reasoning_tokens: 7 }, total_tokens: 1290,
};
const SHELL_TOOL = /^(shell|shell_command|exec_command|bash|local_shell|exec)$/;
const TOOL_OUTPUT = /"(function_call_output|custom_tool_call_output|local_shell_call_output|shell_call_output)"/;

let sequence = 0;
const requests = {};
const newId = prefix => prefix + (++sequence).toString(16).padStart(12, '0');
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

function sendJson(res, value, status = 200, headers = {}) {
  res.writeHead(status, { 'content-type': 'application/json', 'x-request-id': newId('req_'), ...headers });
  res.end(JSON.stringify(value));
}

function sendError(res, mode) {
  const [status, type, message, code] = ERRORS[mode];
  const headers = status === 429 && process.env.RETRY_AFTER ? { 'retry-after': process.env.RETRY_AFTER } : {};
  sendJson(res, { error: { message, type, param: null, code } }, status, headers);
}

function words(mode) {
  if (mode === 'slow') return Array.from({ length: SLOW_WORDS }, (_, i) => `word${i} `);
  return mode === 'empty' ? [] : TEXT.match(/\S+\s*/g);
}

// The call of a shell tool in the shape that this client's tool wants.
function toolCall(tool) {
  const base = { call_id: newId('call_'), name: tool.name, status: 'completed' };
  if (tool.type === 'custom') {
    const call = `await tools.exec_command({cmd: ${JSON.stringify(COMMAND)}})`;
    const input = `const r = ${call}; text(r.output ?? JSON.stringify(r));`;
    return { type: 'custom_tool_call', id: newId('ctc_'), ...base, input };
  }
  const args = tool.name === 'shell' ? { command: ['bash', '-lc', COMMAND] }
    : tool.name === 'exec_command' ? { cmd: COMMAND } : { command: COMMAND };
  return { type: 'function_call', id: newId('fc_'), ...base, arguments: JSON.stringify(args) };
}

function outputItem(body, mode) {
  // A newer model's tools come as an item of the input.
  const items = Array.isArray(body.input) ? body.input.filter(i => i.type === 'additional_tools') : [];
  const offered = [...(body.tools || []), ...items.flatMap(i => i.tools || [])];
  const tools = offered.flatMap(t => t.type === 'namespace' ? t.tools : [t]);
  const done = TOOL_OUTPUT.test(JSON.stringify(body.input ?? ''));
  const tool = mode === 'tool' && !done && tools.find(t => SHELL_TOOL.test(t.name || t.type));
  if (tool) return toolCall(tool);
  const content = [{ type: 'output_text', text: words(mode).join(''), annotations: [] }];
  return { type: 'message', id: newId('msg_'), role: 'assistant', status: 'completed', content };
}

async function responses(body, mode, res) {
  const base = {
    id: newId('resp_'), object: 'response', created_at: Math.floor(Date.now() / 1000), model: body.model,
    status: 'in_progress', output: [], parallel_tool_calls: true, tools: [], usage: null,
  };
  const item = outputItem(body, mode);
  const completed = { ...base, status: 'completed', output: [item], usage: USAGE };
  if (!body.stream) return sendJson(res, completed);

  res.writeHead(200, { 'content-type': 'text/event-stream', 'x-request-id': newId('req_') });
  let number = 0;
  const event = (type, fields) => {
    const data = JSON.stringify({ type, sequence_number: number++, ...fields });
    if (!res.destroyed) res.write(`event: ${type}\ndata: ${data}\n\n`);
  };
  event('response.created', { response: base });
  event('response.in_progress', { response: base });
  if (mode === 'bad') return res.end('event: response.output_item.added\ndata: {not json\n\n');
  if (item.type === 'message') {
    const at = { item_id: item.id, output_index: 0, content_index: 0 };
    event('response.output_item.added', { output_index: 0, item: { ...item, status: 'in_progress', content: [] } });
    event('response.content_part.added', { ...at, part: { type: 'output_text', text: '', annotations: [] } });
    for (const [i, delta] of words(mode).entries()) {
      if (res.destroyed) return;
      event('response.output_text.delta', { ...at, delta });
      if (mode === 'slow') await sleep(SLOW_MS);
      if (mode === 'drop' && i + 1 === DROP_AFTER) return res.destroy();
    }
    event('response.output_text.done', { ...at, text: item.content[0].text });
    event('response.content_part.done', { ...at, part: item.content[0] });
  } else {
    event('response.output_item.added', { output_index: 0, item: { ...item, status: 'in_progress' } });
  }
  event('response.output_item.done', { output_index: 0, item });
  event('response.completed', { response: completed });
  res.end();
}

async function readBody(req) {
  const chunks = [];
  let size = 0;
  for await (const chunk of req) {
    if ((size += chunk.length) > BODY_MAX) throw new Error('mock: body too large');
    chunks.push(chunk);
  }
  return size ? JSON.parse(Buffer.concat(chunks).toString()) : {};
}

const server = http.createServer(async (req, res) => {
  try {
    const path = new URL(req.url, 'http://mock').pathname;
    const mode = path.split('/')[1];
    const body = await readBody(req);
    if (path === '/requests') return sendJson(res, requests);
    if (req.method === 'GET' && path.endsWith('/models')) return sendJson(res, { object: 'list', data: [] });
    if (req.method !== 'POST' || !path.endsWith('/responses')) {
      return sendJson(res, { error: { message: `mock: no such route ${path}`, type: 'not_found' } }, 404);
    }
    requests[mode] = (requests[mode] ?? 0) + 1;
    if (mode === 'hang') return;
    if (ERRORS[mode]) return sendError(res, mode);
    await responses(body, mode, res);
  } catch (error) {
    if (!res.headersSent) sendJson(res, { error: { message: String(error), type: 'invalid_request_error' } }, 400);
    else res.destroy();
  }
});
server.listen(Number(process.argv[2] || 0), '127.0.0.1', () => {
  console.log(`ready http://127.0.0.1:${server.address().port}`);
});
