/* wsload - a WebSocket load generator.  Linux, epoll, one thread, no dependencies.
 *
 *   cc -O2 -Wall -Wextra -o wsload wsload.c
 *
 *   wsload -m throughput -c 100 -w 1 -s 64 -n 1000000 -p 8080         N echoes, W outstanding on each connection
 *   wsload -m oneway     -c 100 -w 8 -s 64 -n 1000000 -p 8080         no echoes wanted; a last Ping/Pong proves arrival
 *   wsload -m paced      -c 200 -r 20 -T 10 -s 64 -p 8080             R msg/s on each connection for T seconds
 *   wsload -m handshake  -n 20000 -P 50 -p 8080                       connect + upgrade + close, P in parallel
 *   wsload -m storm      -c 2000 -p 8080                              all upgrades at once, held until all are answered
 *   wsload -m idle       -c 5000 -T 5 -p 8080                         open, hold, then one echo on each to prove it lives
 *
 *   -a ADDR         target address (127.0.0.1)         -p PORT   target port
 *   -u TEMPLATE     path, e.g. '/ws/room/{i%50}'       -H TEMPLATE  extra header, e.g. 'Authorization: Bearer user{i%100}'
 *                   {i} is the connection's number, {i%K} that number modulo K; -H may be repeated
 *   -S N            spread connections over N source addresses 127.0.1.1 ... (0: let the kernel choose)
 *   -P N            at most N upgrades in flight while opening (default 100)
 *   -k              handshake: drop the TCP connection after the answer instead of the closing handshake
 *   -t SECONDS      give up after this long (default 120)
 *   -i PID          sample CPU time and RSS of PID over the measured phase; may be repeated
 *   -g              first an ordinary GET on each connection, then the upgrade on that same connection
 *   -b              server broadcasts: frames of other connections are counted, not taken for errors
 *   -l LABEL        copied into the result
 *
 * One JSON line per run on stdout.  Every echo is checked: opcode, FIN, no mask, length, connection number,
 * sequence number, first and last payload bytes.  Latency in throughput mode runs from the send; in paced mode
 * from the moment the send was due, so that a stalled server cannot hide its stall.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KEY    "dGhlIHNhbXBsZSBub25jZQ=="             /* RFC 6455's own example, so its answer is known */
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum { RBUF = 1 << 18, RESP_MAX = 8192, MAX_PIDS = 64, MAX_HEADERS = 8 };
enum mode { THROUGHPUT, ONEWAY, PACED, HANDSHAKE, STORM, IDLE };
enum state { UNUSED, CONNECTING, UPGRADING, OPEN, CLOSING, DONE };
static const char *mode_names[] = { "throughput", "oneway", "paced", "handshake", "storm", "idle" };

struct conn {
	int fd;
	uint32_t id, tx_seq, rx_seq, events;
	uint8_t state, ponged, close_sent, got;           /* got: the ordinary GET is answered, or was not wanted */
	uint64_t t0;                                      /* when connect() was called */
	char *resp; uint32_t resp_len;                    /* the upgrade response so far */
	uint8_t *out; size_t out_off, out_len;            /* what the socket would not take */
	uint8_t hdr[10], hdr_n, first[16], first_n, last; /* the frame being read */
	uint64_t len, frame_got;
};

/* ---------------------------------------------------------------- options, counters */

static struct {
	enum mode mode;
	const char *addr, *path, *label, *headers[MAX_HEADERS];
	int port, n_headers, pids[MAX_PIDS], n_pids, abrupt, broadcast, get_first;
	uint32_t conns, window, size, parallel, sources;
	uint64_t total;
	double rate, secs, timeout;
} o = { .addr = "127.0.0.1", .path = "/", .label = "", .port = 8080, .conns = 100, .window = 1, .size = 64,
        .parallel = 100, .total = 100000, .rate = 20, .secs = 5, .timeout = 120 };

static struct {
	uint64_t sent, echoed, fanout, bad, lost_conns, unasked_closes;
	uint64_t http[600], connect_errors, bad_accept, timeouts, answered, gets_refused;
	uint64_t close_codes[5000], no_close_code;
} st;

static int ep;
static uint8_t rbuf[RBUF], *tx;                       /* tx: scratch for outgoing frames */
static struct conn *conns;
static uint64_t opened, pending;

static uint64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---------------------------------------------------------------- histogram: 128 steps per power of two (< 0.8 %) */

struct hist { uint64_t bucket[64 * 128], n, max; double sum; };
static struct hist rtt, shake;

static void hist_add(struct hist *h, uint64_t ns) {
	int e = 0;                                               /* ns >> e lies in 64..127; a loop, since tcc has no __builtin_clzll */
	while (ns >> e >= 128) e++;
	h->bucket[e * 128 + (int)(ns >> e)]++;
	h->n++;
	h->sum += (double)ns;
	if (ns > h->max) h->max = ns;
}

static double hist_us(const struct hist *h, double q) {
	uint64_t want = (uint64_t)(q * (double)h->n + 0.999999), seen = 0;
	for (int i = 0; i < 64 * 128; i++)
		if ((seen += h->bucket[i]) >= want && seen) return (double)((uint64_t)(i % 128) << (i / 128)) / 1e3;
	return 0;
}

static void hist_print(const char *name, const struct hist *h) {
	if (h->n) printf(",\"%s_us\":{\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", name,
		h->sum / (double)h->n / 1e3, hist_us(h, .5), hist_us(h, .9), hist_us(h, .99), hist_us(h, .999), (double)h->max / 1e3);
}

/* ---------------------------------------------------------------- CPU and memory of the watched processes */

struct usage { double cpu; uint64_t rss_kb; };

/* CPU time from the scheduler's nanosecond counters, thread by thread (a thread that has ended is not counted). */
static struct usage sample(void) {
	struct usage u = { 0 };
	for (int i = 0; i < o.n_pids; i++) {
		char name[320];
		unsigned long v = 0;
		FILE *f;
		snprintf(name, sizeof name, "/proc/%d/task", o.pids[i]);
		DIR *d = opendir(name);
		for (struct dirent *e; d && (e = readdir(d)); ) {
			snprintf(name, sizeof name, "/proc/%d/task/%s/schedstat", o.pids[i], e->d_name);
			if (e->d_name[0] == '.' || !(f = fopen(name, "r"))) continue;
			if (fscanf(f, "%lu", &v) == 1) u.cpu += (double)v / 1e9;
			fclose(f);
		}
		if (d) closedir(d);
		snprintf(name, sizeof name, "/proc/%d/statm", o.pids[i]);
		if ((f = fopen(name, "r"))) {
			if (fscanf(f, "%*u %lu", &v) == 1) u.rss_kb += v * (unsigned long)sysconf(_SC_PAGESIZE) / 1024;
			fclose(f);
		}
	}
	return u;
}

static double own_cpu(void) {
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* ---------------------------------------------------------------- connections */

static void watch(struct conn *c, uint32_t events) {
	if (c->events == events) return;
	struct epoll_event e = { .events = events, .data.ptr = c };
	epoll_ctl(ep, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e);
	c->events = events;
}

static void finish(struct conn *c) {
	if (c->state == CONNECTING || c->state == UPGRADING) pending--;
	if (c->fd >= 0) close(c->fd);
	free(c->resp); free(c->out);
	c->resp = NULL; c->out = NULL;
	c->fd = -1; c->events = 0; c->out_off = c->out_len = 0;
	c->state = DONE;
}

static void lose(struct conn *c) {                    /* the connection ended without being asked to */
	if (c->state == CONNECTING || c->state == UPGRADING) { st.connect_errors++; st.answered++; }
	else if (c->state == OPEN) st.lost_conns++;
	finish(c);
}

static void flush(struct conn *c) {
	while (c->out_off < c->out_len) {
		ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
		if (n > 0) c->out_off += (size_t)n;
		else if (errno == EAGAIN) { watch(c, EPOLLIN | EPOLLOUT); return; }
		else if (errno != EINTR) { lose(c); return; }
	}
	c->out_off = c->out_len = 0;
	watch(c, EPOLLIN);
}

static void send_bytes(struct conn *c, const uint8_t *p, size_t n) {
	if (!c->out_len) {
		ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL);
		if (k < 0 && errno != EAGAIN && errno != EINTR) { lose(c); return; }
		if (k > 0) { p += k; n -= (size_t)k; }
		if (!n) return;
	}
	c->out = realloc(c->out, c->out_len + n);
	memcpy(c->out + c->out_len, p, n);
	c->out_len += n;
	watch(c, EPOLLIN | EPOLLOUT);
}

/* Appends one masked frame to p.  Data payload: time, connection, sequence, then filler; the filler is not touched
 * between frames because tx always holds it masked with the same key. */
static const uint8_t MASK[4] = { 0x5a, 0xc3, 0x17, 0x9e };

static size_t put_frame(uint8_t *p, uint8_t first, uint32_t len, const void *head, uint32_t head_n, int fill) {
	size_t h = 2;
	p[0] = first;
	if (len < 126) p[1] = (uint8_t)(128 | len);
	else if (len < 65536) { p[1] = 128 | 126; p[2] = (uint8_t)(len >> 8); p[3] = (uint8_t)len; h = 4; }
	else { p[1] = 128 | 127; memset(p + 2, 0, 4); for (int i = 0; i < 4; i++) p[6+i] = (uint8_t)(len >> (24 - 8 * i)); h = 10; }
	memcpy(p + h, MASK, 4);
	h += 4;
	for (uint32_t i = 0; i < head_n && i < len; i++) p[h+i] = ((const uint8_t *)head)[i] ^ MASK[i & 3];
	if (fill) for (uint32_t i = head_n; i < len; i++) p[h+i] = (uint8_t)('x' ^ MASK[i & 3]);
	return h + len;
}

static void send_data(struct conn *c, uint32_t count, uint64_t stamp) {
	static uint32_t filled;                           /* frames of tx whose filler is in place */
	size_t at = 0;
	for (uint32_t i = 0; i < count; i++) {
		uint8_t head[16];
		uint32_t seq = c->tx_seq++;
		memcpy(head, &stamp, 8); memcpy(head + 8, &c->id, 4); memcpy(head + 12, &seq, 4);
		at += put_frame(tx + at, 0x82, o.size, head, 16, i >= filled);
		if (i >= filled) filled = i + 1;
	}
	st.sent += count;
	send_bytes(c, tx, at);
}

static void send_control(struct conn *c, uint8_t first, const void *p, uint32_t n) {
	uint8_t f[160];
	send_bytes(c, f, put_frame(f, first, n, p, n, 0));
}

static size_t expand(char *out, size_t cap, const char *tpl, uint32_t i) {
	size_t n = 0;
	while (*tpl && n + 16 < cap) {
		unsigned mod;
		if (!strncmp(tpl, "{i}", 3)) { n += (size_t)sprintf(out + n, "%u", i); tpl += 3; }
		else if (sscanf(tpl, "{i%%%u}", &mod) == 1 && mod) { n += (size_t)sprintf(out + n, "%u", i % mod); tpl = strchr(tpl, '}') + 1; }
		else out[n++] = *tpl++;
	}
	out[n] = 0;
	return n;
}

static void start(struct conn *c, uint32_t id) {
	memset(c, 0, sizeof *c);
	c->id = id;
	c->got = !o.get_first;
	c->state = CONNECTING;
	c->t0 = now_ns();
	pending++;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)o.port) };
	inet_pton(AF_INET, o.addr, &to.sin_addr);
	if (c->fd < 0) { lose(c); return; }
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	if (o.sources) {
		uint32_t s = id % o.sources;
		struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000101u + s / 250 * 256 + s % 250) };
		setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){ 1 }, sizeof(int));
		if (bind(c->fd, (void *)&from, sizeof from)) { lose(c); return; }
	}
	if (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) { lose(c); return; }
	watch(c, EPOLLOUT);
}

static void send_request(struct conn *c) {
	char req[4096];
	size_t n = (size_t)sprintf(req, "GET ");
	n += expand(req + n, 1024, c->got ? o.path : "/before", c->id); /* not o.path: a proxy that refuses it may close */
	n += (size_t)sprintf(req + n, " HTTP/1.1\r\nHost: %s:%d\r\n", o.addr, o.port);
	if (c->got) n += (size_t)sprintf(req + n, "Upgrade: websocket\r\nConnection: Upgrade\r\n"
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY "\r\n");
	for (int i = 0; i < o.n_headers; i++) {
		n += expand(req + n, 512, o.headers[i], c->id);
		n += (size_t)sprintf(req + n, "\r\n");
	}
	n += (size_t)sprintf(req + n, "\r\n");
	send_bytes(c, (uint8_t *)req, n);
}

static void on_connected(struct conn *c) {
	int err = 0;
	socklen_t el = sizeof err;
	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &el);
	if (err) { lose(c); return; }
	c->state = UPGRADING;
	watch(c, EPOLLIN);
	send_request(c);
}

static void start_close(struct conn *c) {
	if (c->close_sent) return;
	c->close_sent = 1;
	c->state = CLOSING;
	send_control(c, 0x88, "\x03\xe8", 2);
}

/* Returns the bytes used of p[0..n), the rest being WebSocket frames. */
static size_t on_response(struct conn *c, const uint8_t *p, size_t n) {
	if (!c->resp) c->resp = malloc(RESP_MAX + 1);
	size_t take = n < RESP_MAX - c->resp_len ? n : RESP_MAX - c->resp_len, before = c->resp_len;
	memcpy(c->resp + before, p, take);
	c->resp_len += (uint32_t)take;
	c->resp[c->resp_len] = 0;
	char *end = strstr(c->resp, "\r\n\r\n"), *acc;
	if (!end) { if (c->resp_len >= RESP_MAX) lose(c); return n; }
	size_t used = (size_t)(end + 4 - c->resp) - before;
	int status = c->resp_len > 12 ? atoi(c->resp + 9) : 0;
	if (!c->got) {                                        /* the answer to the ordinary GET, whose body we wait for */
		char *length = strcasestr(c->resp, "\r\ncontent-length:");
		size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
		if (status != 200 || !length) { st.gets_refused++; lose(c); return n; }
		if (c->resp_len < (size_t)(end + 4 - c->resp) + body) return n;
		c->got = 1;
		c->resp_len = 0;
		send_request(c);
		return n;
	}
	if (status < 100 || status > 599) status = 599;
	st.http[status]++;
	st.answered++;
	hist_add(&shake, now_ns() - c->t0);
	acc = strcasestr(c->resp, "\r\nsec-websocket-accept:");
	if (status == 101 && !(acc && (acc = strstr(acc, ACCEPT)) && acc < end)) { st.bad_accept++; status = 0; }
	pending--;
	c->state = CLOSING;
	if (status != 101) { finish(c); return n; }
	c->state = OPEN;
	opened++;
	free(c->resp);
	c->resp = NULL;
	if (o.mode == HANDSHAKE) { if (o.abrupt) { finish(c); return n; } start_close(c); }
	return used;
}

static uint64_t run_start, run_end;                   /* the measured phase */
static int running;

static void on_frame(struct conn *c) {
	int op = c->hdr[0] & 15;
	if (op == 8) {
		unsigned code = c->first_n >= 2 ? (unsigned)(c->first[0] << 8 | c->first[1]) : 0;
		if (code && code < 5000) st.close_codes[code]++; else st.no_close_code++;
		if (c->state == OPEN) {
			st.unasked_closes++;
			send_control(c, 0x88, c->first, c->first_n >= 2 ? 2 : 0);
			if (c->state != DONE) finish(c);
		}
		return;
	}
	if (op == 9) { send_control(c, 0x8A, c->first, c->first_n); return; }
	if (op == 10) { c->ponged = 1; return; }
	uint64_t stamp;
	uint32_t id, seq;
	memcpy(&stamp, c->first, 8); memcpy(&id, c->first + 8, 4); memcpy(&seq, c->first + 12, 4);
	int sane = c->hdr[0] == 0x82 && !(c->hdr[1] & 128) && c->len == o.size && c->last == (o.size > 16 ? 'x' : c->first[o.size - 1]);
	if (o.broadcast && sane && id != c->id) { st.fanout++; return; }
	if (!sane || id != c->id || seq != c->rx_seq) { st.bad++; return; }
	c->rx_seq++;
	st.echoed++;
	uint64_t t = now_ns();
	hist_add(&rtt, t - stamp);
	run_end = t;
}

static void on_frames(struct conn *c, const uint8_t *p, size_t n) {
	uint64_t before = st.echoed;
	while (n && c->state != DONE) {
		size_t want = c->hdr_n < 2 ? 2 : (c->hdr[1] & 127) == 126 ? 4 : (c->hdr[1] & 127) == 127 ? 10 : 2;
		if (c->hdr_n < want) {
			c->hdr[c->hdr_n++] = *p++; n--;
			if (c->hdr_n == 2 && (c->hdr[1] & 127) >= 126) continue;
			if (c->hdr_n < want) continue;
			c->len = c->hdr[1] & 127;
			if (c->len == 126) c->len = (uint64_t)c->hdr[2] << 8 | c->hdr[3];
			else if (c->len == 127) { c->len = 0; for (int i = 2; i < 10; i++) c->len = c->len << 8 | c->hdr[i]; }
			c->frame_got = 0;
			c->first_n = 0;
		} else {
			size_t k = c->len - c->frame_got < n ? (size_t)(c->len - c->frame_got) : n;
			for (size_t i = 0; i < k && c->first_n < 16; i++) c->first[c->first_n++] = p[i];
			c->last = p[k-1];
			c->frame_got += k; p += k; n -= k;
		}
		if (c->frame_got == c->len && c->hdr_n >= want) { on_frame(c); c->hdr_n = 0; }
	}
	if (running && o.mode == THROUGHPUT && c->state == OPEN && st.echoed > before) {
		uint64_t k = st.echoed - before, left = o.total > st.sent ? o.total - st.sent : 0;
		if (k > left) k = left;
		if (k) send_data(c, (uint32_t)k, now_ns());
	}
}

static void on_event(struct conn *c, uint32_t events) {
	if (c->state == DONE || c->state == UNUSED) return;
	if (c->state == CONNECTING) { on_connected(c); return; }
	if (events & EPOLLOUT) flush(c);
	if (c->state == DONE || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
	ssize_t n = recv(c->fd, rbuf, RBUF, 0);
	if (n <= 0) { if (n == 0 || (errno != EAGAIN && errno != EINTR)) lose(c); return; }
	size_t used = c->state == UPGRADING ? on_response(c, rbuf, (size_t)n) : 0;
	if (c->state != DONE && c->state != UPGRADING) on_frames(c, rbuf + used, (size_t)n - used);
}

static void poll_for(int64_t ns) {                    /* < 0: until something happens, at most a second */
	struct epoll_event ev[512];
	if (ns < 0 || ns > 1000000000) ns = 1000000000;
	struct timespec t = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
	int n = epoll_pwait2(ep, ev, 512, &t, NULL);
	for (int i = 0; i < n; i++) on_event(ev[i].data.ptr, ev[i].events);
}

/* ---------------------------------------------------------------- phases */

static uint64_t deadline;
static int expired(void) { return now_ns() > deadline; }

static void open_all(uint32_t parallel) {
	uint32_t next = 0;
	while ((next < o.conns || pending) && !expired()) {
		while (next < o.conns && pending < parallel) { start(&conns[next], next); next++; }
		poll_for(1000000000);
	}
	for (uint32_t i = 0; i < o.conns; i++)
		if (conns[i].state == CONNECTING || conns[i].state == UPGRADING) { st.timeouts++; finish(&conns[i]); }
}

static void close_all(void) {
	uint64_t until = now_ns() + 5000000000u, left = 1;
	uint32_t i = 0;
	while (left && now_ns() < until) {
		for (uint32_t k = 0; i < o.conns && k < 200; i++, k++) if (conns[i].state == OPEN) start_close(&conns[i]);
		poll_for(i < o.conns ? 0 : 20000000);
		left = i < o.conns;
		for (uint32_t k = 0; k < i && !left; k++) left = conns[k].state == CLOSING;
	}
	for (i = 0; i < o.conns; i++) if (conns[i].state != DONE && conns[i].state != UNUSED) finish(&conns[i]);
}

static void run_handshakes(void) {                    /* conns[] is used as P slots here */
	uint64_t next = 0;
	int busy = 1;
	while (busy && !expired()) {
		busy = 0;
		for (uint32_t i = 0; i < o.parallel; i++) {
			struct conn *c = &conns[i];
			if ((c->state == UNUSED || c->state == DONE) && next < o.total) start(c, (uint32_t)next++);
			if (c->state != UNUSED && c->state != DONE) busy = 1;
		}
		if (busy) poll_for(1000000000);
	}
}

static void run_throughput(void) {
	for (uint32_t i = 0; i < o.conns && st.sent < o.total; i++)
		if (conns[i].state == OPEN) send_data(&conns[i], o.window, now_ns());
	while (st.echoed + st.bad < st.sent && st.lost_conns + st.unasked_closes < opened && !expired()) poll_for(-1);
}

static void run_oneway(void) {
	uint64_t live = 1;
	while (st.sent < o.total && live && !expired()) {
		live = 0;
		for (uint32_t i = 0; i < o.conns && st.sent < o.total; i++)
			if (conns[i].state == OPEN) { live = 1; if (!conns[i].out_len) send_data(&conns[i], o.window, now_ns()); }
		poll_for(0);
	}
	for (uint32_t i = 0; i < o.conns; i++) if (conns[i].state == OPEN) send_control(&conns[i], 0x89, "end", 3);
	for (live = 1; live && !expired(); ) {
		poll_for(-1);
		live = 0;
		for (uint32_t i = 0; i < o.conns; i++) live |= conns[i].state == OPEN && !conns[i].ponged;
	}
	run_end = now_ns();
}

static void run_paced(void) {
	double step = 1e9 / (o.rate * opened), due = (double)now_ns();
	uint64_t end = (uint64_t)(due + o.secs * 1e9), tail;
	uint32_t i = 0;
	while (due < (double)end && st.lost_conns + st.unasked_closes < opened) {
		double t = (double)now_ns();
		for (; due <= t && due < (double)end; due += step) {
			while (conns[i % o.conns].state != OPEN && st.lost_conns + st.unasked_closes < opened) i++;
			send_data(&conns[i++ % o.conns], 1, (uint64_t)due);
		}
		poll_for(due > t ? (int64_t)(due - t) : 0);
	}
	for (tail = now_ns() + 2000000000u; st.echoed < st.sent && now_ns() < tail; ) poll_for(10000000);
}

static void usage(void) { fprintf(stderr, "see the comment at the top of wsload.c\n"); exit(2); }

int main(int argc, char **argv) {
	int k;
	while ((k = getopt(argc, argv, "m:a:p:u:H:S:c:w:s:n:r:T:P:t:i:l:kbg")) != -1) switch (k) {
		case 'm':
			for (k = 0; k <= IDLE && strcmp(optarg, mode_names[k]); k++) ;
			if (k > IDLE) usage();
			o.mode = (enum mode)k;
			break;
		case 'a': o.addr = optarg; break;
		case 'p': o.port = atoi(optarg); break;
		case 'u': o.path = optarg; break;
		case 'H': if (o.n_headers < MAX_HEADERS) o.headers[o.n_headers++] = optarg; break;
		case 'S': o.sources = (uint32_t)atoi(optarg); break;
		case 'c': o.conns = (uint32_t)atoi(optarg); break;
		case 'w': o.window = (uint32_t)atoi(optarg); break;
		case 's': o.size = (uint32_t)atoi(optarg); break;
		case 'n': o.total = strtoull(optarg, NULL, 10); break;
		case 'r': o.rate = atof(optarg); break;
		case 'T': o.secs = atof(optarg); break;
		case 'P': o.parallel = (uint32_t)atoi(optarg); break;
		case 't': o.timeout = atof(optarg); break;
		case 'i': if (o.n_pids < MAX_PIDS) o.pids[o.n_pids++] = atoi(optarg); break;
		case 'l': o.label = optarg; break;
		case 'k': o.abrupt = 1; break;
		case 'b': o.broadcast = 1; break;
		case 'g': o.get_first = 1; break;
		default: usage();
	}
	if (o.size < 16 || !o.conns || !o.window || !o.parallel) { fprintf(stderr, "size >= 16, counts >= 1\n"); return 2; }
	signal(SIGPIPE, SIG_IGN);
	struct rlimit rl;
	getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl);
	conns = calloc(o.mode == HANDSHAKE ? o.parallel : o.conns, sizeof *conns);
	tx = malloc((size_t)(o.size + 14) * o.window + 64);
	ep = epoll_create1(EPOLL_CLOEXEC);
	deadline = now_ns() + (uint64_t)(o.timeout * 1e9);

	struct usage u0 = sample(), u1;
	double cpu0 = own_cpu();
	run_start = now_ns();
	uint64_t rss0 = u0.rss_kb;
	if (o.mode == HANDSHAKE) { run_handshakes(); run_end = now_ns(); }
	else if (o.mode == STORM) { open_all(o.conns); run_end = now_ns(); }
	else {
		open_all(o.parallel);
		if (o.mode == IDLE) { uint64_t until = now_ns() + (uint64_t)(o.secs * 1e9); while (now_ns() < until) poll_for(100000000); }
		else { u0 = sample(); cpu0 = own_cpu(); }
		run_end = run_start = now_ns();
		running = 1;
		if (o.mode == THROUGHPUT) run_throughput();
		else if (o.mode == ONEWAY) run_oneway();
		else if (o.mode == PACED) run_paced();
		if (o.mode == PACED) run_end = now_ns();
	}
	running = 0;
	u1 = sample();
	double cpu1 = own_cpu(), secs = (double)(run_end - run_start) / 1e9;
	if (o.mode == IDLE) {                                     /* each connection must still carry a message */
		o.total = opened;
		for (uint32_t i = 0; i < o.conns; i++) if (conns[i].state == OPEN) { send_data(&conns[i], 1, now_ns()); poll_for(0); }
		while (st.echoed < st.sent && st.lost_conns < opened && !expired()) poll_for(100000000);
	}
	uint64_t msgs = o.mode == ONEWAY ? st.sent : st.echoed;
	uint64_t unit = o.mode == HANDSHAKE || o.mode == STORM ? st.answered : msgs;
	int late = o.mode != PACED && expired();

	printf("{\"label\":\"%s\",\"mode\":\"%s\",\"conns\":%u,\"opened\":%lu,\"size\":%u,\"window\":%u,\"secs\":%.3f", o.label,
		mode_names[o.mode], o.conns, opened, o.size, o.window, secs);
	if (o.mode != HANDSHAKE && o.mode != STORM)
		printf(",\"sent\":%lu,\"echoed\":%lu,\"fanout\":%lu,\"bad\":%lu,\"per_s\":%.0f", st.sent, st.echoed, st.fanout, st.bad, secs > 0 ? (double)msgs / secs : 0);
	else printf(",\"answered\":%lu,\"per_s\":%.0f", st.answered, secs > 0 ? (double)st.answered / secs : 0);
	hist_print("rtt", &rtt);
	hist_print("upgrade", &shake);
	printf(",\"http\":{");
	const char *sep = "";
	for (k = 0; k < 600; k++) if (st.http[k]) { printf("%s\"%d\":%lu", sep, k, st.http[k]); sep = ","; }
	printf("},\"connect_errors\":%lu,\"bad_accept\":%lu,\"timeouts\":%lu,\"lost\":%lu,\"closed_by_server\":%lu,\"gets_refused\":%lu",
		st.connect_errors, st.bad_accept, st.timeouts, st.lost_conns, st.unasked_closes, st.gets_refused);
	if (o.n_pids) {
		printf(",\"cpu_s\":%.3f,\"cpu_s_per_1m\":%.3f,\"rss_kb\":%lu", u1.cpu - u0.cpu, unit ? (u1.cpu - u0.cpu) / (double)unit * 1e6 : 0, u1.rss_kb);
		if (o.mode == IDLE || o.mode == STORM) printf(",\"rss_kb_per_conn\":%.2f", opened ? (double)(u1.rss_kb - rss0) / (double)opened : 0);
	}
	printf(",\"own_cpu_s\":%.2f,\"timed_out\":%s", cpu1 - cpu0, late ? "true" : "false");
	fflush(stdout);
	if (o.mode != HANDSHAKE) close_all();
	printf(",\"close_codes\":{");
	for (k = 0, sep = ""; k < 5000; k++) if (st.close_codes[k]) { printf("%s\"%d\":%lu", sep, k, st.close_codes[k]); sep = ","; }
	printf("},\"close_no_code\":%lu}\n", st.no_close_code);
	return st.bad || st.bad_accept || late ? 1 : 0;
}
