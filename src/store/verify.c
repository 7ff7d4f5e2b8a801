/*
 * Verification: PRAGMA cipher_integrity_check reads each page of the database file, past the WAL, and checks its HMAC.
 * After a crash in the middle of a checkpoint a page of the file may be torn, which is no damage: the WAL has it whole,
 * and recovery will write it again. So a bad page counts only where no frame of the WAL replaces it.
 */

#include <endian.h>
#include <fcntl.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/parse.h"
#include "store/internal.h"

#define WAL_HEADER_SIZE 32
#define WAL_FRAME_HEADER_SIZE 24
#define WAL_SALT_SIZE 8

/* A set of page numbers. */
typedef struct Pages {
        uint8_t *bits;
        uint64_t max;
} Pages;

static void pages_deinit(Pages *pages) {
        free(pages->bits);
}

static bool pages_has(const Pages *pages, uint64_t page) {
        return page <= pages->max && (pages->bits[page / 8] >> page % 8 & 1);
}

/*
 * The pages that the WAL replaces, up to max. SQLite's file format §4: a header with the salt at 16, then frames: page
 * number at 0, salt at 8.
 */
static int pages_of_wal(int dir_fd, uint64_t max, Pages *ret_pages) {
        _cleanup_close_ int fd = openat(dir_fd, STORE_WAL, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        _cleanup_(pages_deinit) Pages pages = { .max = max };
        uint8_t header[WAL_HEADER_SIZE], frame[WAL_FRAME_HEADER_SIZE];

        pages.bits = calloc(1, max / 8 + 1);
        if (!pages.bits)
                return error_origin(-ENOMEM);
        if (fd < 0 && errno != ENOENT)
                return error_origin(-errno);
        if (fd >= 0 && pread(fd, header, sizeof(header), 0) == sizeof(header))
                for (off_t offset = WAL_HEADER_SIZE; pread(fd, frame, sizeof(frame), offset) == sizeof(frame) &&
                     memcmp(frame + 8, header + 16, WAL_SALT_SIZE) == 0; offset += STORE_WAL_FRAME_SIZE) {
                        uint32_t number;

                        memcpy(&number, frame, sizeof(number));
                        number = be32toh(number);
                        if (number <= max)
                                pages.bits[number / 8] |= (uint8_t)(1 << number % 8);
                }
        ret_pages->bits = steal_ptr(&pages.bits);
        ret_pages->max = max;
        return 0;
}

/* The number behind the last "page " of SQLCipher's sentence; 0 where there is none. */
static uint32_t complaint_page(const char *complaint) {
        const char *s = strstr(complaint, "page ");
        char digits[12] = "";
        uint64_t page = 0;
        size_t n;

        if (!s)
                return 0;
        s += strlen("page ");
        n = strspn(s, "0123456789");
        if (n == 0 || n >= sizeof(digits))
                return 0;
        memcpy(digits, s, n);
        return parse_u64_range(digits, 1, UINT32_MAX, &page) ? (uint32_t)page : 0;
}

int store_verify_size(Store *store, uint64_t database_bytes, char ret_refused[static STORE_REFUSED_MAX]) {
        _cleanup_(pages_deinit) Pages replaced = {};
        uint64_t n_pages;
        int r;

        r = store_query_u64(store, "PRAGMA page_count", &n_pages);
        if (r)
                return error_fold(r);
        if (n_pages <= database_bytes / STORE_PAGE_SIZE)
                return 0;
        r = pages_of_wal(store->dir_fd, n_pages, &replaced);
        if (r)
                return error_trace(r);
        for (uint64_t page = database_bytes / STORE_PAGE_SIZE + 1; page <= n_pages; page++)
                if (!pages_has(&replaced, page))
                        return store_refuse(ret_refused,
                                            "%s is damaged (cut short: page %llu of %llu is missing): restore it "
                                            "from a backup",
                                            store->path, (unsigned long long)page, (unsigned long long)n_pages);
        return 0;
}

int store_verify_pages(Store *store, char ret_refused[static STORE_REFUSED_MAX]) {
        _cleanup_(pages_deinit) Pages replaced = {};
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        uint64_t n_pages;
        int r;

        r = store_query_u64(store, "PRAGMA page_count", &n_pages);
        if (!r)
                r = stmt_get(&stmt, store, STMT_UNCACHED, "PRAGMA cipher_integrity_check");
        if (r)
                return error_fold(r);
        for (;;) {
                const char *complaint;
                uint32_t page;
                bool row;
                size_t n;

                r = stmt_step(&stmt, &row);
                if (r)
                        return error_fold(r);
                if (!row)
                        return 0;
                complaint = stmt_peek_text(&stmt, &n);
                page = complaint ? complaint_page(complaint) : 0;
                if (!replaced.bits) {
                        r = pages_of_wal(store->dir_fd, n_pages, &replaced);
                        if (r)
                                return error_trace(r);
                }
                if (!page || !pages_has(&replaced, page))
                        return store_refuse(ret_refused, "%s is damaged (%s): restore it from a backup", store->path,
                                            complaint ?: "no page can be read");
        }
}

int store_verify(Store *store, char ret_refused[static STORE_REFUSED_MAX]) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = store_verify_pages(store, ret_refused);
        if (r)
                return r;
        r = stmt_get(&stmt, store, STMT_UNCACHED, "PRAGMA quick_check(1)");
        if (!r)
                r = stmt_step(&stmt, &row);
        if (r)
                return error_fold(r);
        if (row) {
                _cleanup_free_ char *answer = stmt_str(&stmt);

                if (!answer)
                        return error_origin(-ENOMEM);
                if (!streq(answer, "ok"))
                        return store_refuse(ret_refused, "%s is damaged (%s): restore it from a backup", store->path,
                                            answer);
        }
        return 0;
}
